{{- define "gatehouse.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "gatehouse.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gatehouse.labels" -}}
{{ include "gatehouse.selectorLabels" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gatehouse.serviceAccountName" -}}
{{- default (ternary (include "gatehouse.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{- define "gatehouse.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "gatehouse.externalSecretName" -}}
{{- default (printf "%s-external" (include "gatehouse.fullname" .)) .Values.externalSecrets.secretName -}}
{{- end }}

{{/* Whether only one pod can have the database or the volume. */}}
{{- define "gatehouse.single" -}}
{{- if or (hasPrefix "sqlite:" .Values.mlflow.backendStoreUri) (and .Values.storage.enabled (ne .Values.storage.accessMode "ReadWriteMany")) -}}true{{- end -}}
{{- end }}

{{- define "gatehouse.publicHost" -}}
{{- (urlParse (default "" .Values.settings.PUBLIC_URL)).host | splitList ":" | first -}}
{{- end }}

{{/* A value as the text of a variable: lists with commas, numbers without an exponent. */}}
{{- define "gatehouse.text" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}
{{- else if kindIs "float64" . -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end }}

{{/* The names by which pods of the cluster reach the Service, besides PUBLIC_URL's host. */}}
{{- define "gatehouse.serviceNames" -}}
{{- $name := include "gatehouse.fullname" . -}}
{{- $names := list -}}
{{- range list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
{{- $names = concat $names (list . (printf "%s:%v" . $.Values.service.port)) -}}
{{- end -}}
{{- join "," $names -}}
{{- end }}

{{/* How the database is reached: what the server, the Jobs and the backup need. */}}
{{- define "gatehouse.databaseEnv" -}}
{{- with .Values.mlflow }}
{{- if .database.host }}
{{- $parameters := .database.parameters }}
{{- $host := .database.host }}
{{- $address := printf "%s:%v" $host (int64 .database.port) }}
{{- if hasPrefix "/" $host }}
{{- $address = "" }}
{{- $parameters = merge (dict "host" $host) $parameters }}
{{- end }}
{{- $query := list }}
{{- range $key, $value := $parameters }}
{{- $query = append $query (printf "%s=%s" $key ($value | toString | urlquery | replace "+" "%20")) }}
{{- end }}
- name: BACKEND_STORE_URI
  value: {{ printf "postgresql://%s@%s/%s%s%s" (.database.user | urlquery | replace "+" "%20") $address (.database.name | urlquery | replace "+" "%20") (ternary "?" "" (gt (len $query) 0)) (join "&" $query) | quote }}
{{- with .database.passwordSecret }}
{{- if .name }}
- name: PGPASSWORD # libpq reads it; in the URI it would have to be percent-encoded
  valueFrom:
    secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
{{- end }}
{{- end }}
{{- else if .backendStoreUriFrom }}
- name: BACKEND_STORE_URI
  valueFrom: {{- toYaml .backendStoreUriFrom | nindent 4 }}
{{- else if .backendStoreUri }}
- name: BACKEND_STORE_URI
  value: {{ .backendStoreUri | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The environment of the server, and of what runs beside it with the same settings. */}}
{{- define "gatehouse.env" -}}
{{- include "gatehouse.databaseEnv" . }}
{{- with .Values.mlflow.artifactsDestination }}
- {name: ARTIFACTS_DESTINATION, value: {{ . | quote }}}
{{- end }}
{{- with .Values.mlflow.defaultArtifactRoot }}
- {name: DEFAULT_ARTIFACT_ROOT, value: {{ . | quote }}}
{{- end }}
{{- if or .Values.accessPolicy.policy .Values.accessPolicy.existingConfigMap.name }}
- {name: ACCESS_POLICY, value: /etc/gatehouse/access/access.yaml}
{{- end }}
{{- if .Values.oauthProxyConfig.existingSecret }}
- {name: OAUTH_PROXY_CONFIG, value: /etc/gatehouse/proxy/oauth2_proxy.cfg}
{{- end }}
{{- if .Values.metrics.enabled }}
- {name: METRICS, value: {{ int64 .Values.metrics.port | quote }}}
{{- end }}
{{- $settings := deepCopy .Values.settings }}
{{- $hosts := include "gatehouse.serviceNames" . }}
{{- with $settings.MLFLOW_SERVER_ALLOWED_HOSTS }}
{{- $hosts = printf "%s,%s" $hosts (include "gatehouse.text" .) }}
{{- end }}
{{- $_ := set $settings "MLFLOW_SERVER_ALLOWED_HOSTS" $hosts }}
{{- if and .Values.mlflow.database.host .Values.mlflow.database.passwordSecret.name }}
{{- $kept := "PGPASSWORD" }}
{{- with $settings.JOB_ENVIRONMENT }}
{{- $kept = printf "%s,%s" $kept (include "gatehouse.text" .) }}
{{- end }}
{{- $_ := set $settings "JOB_ENVIRONMENT" $kept }}
{{- end }}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
- {name: {{ $name }}, value: {{ include "gatehouse.text" $value | quote }}}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where secrets come from; of two with the same key, the last counts. */}}
{{- define "gatehouse.envFrom" -}}
{{- if .Values.secrets.generate }}
- secretRef: {name: {{ include "gatehouse.fullname" . }}-generated}
{{- end }}
{{- if .Values.secrets.values }}
- secretRef: {name: {{ include "gatehouse.fullname" . }}-values}
{{- end }}
{{- if .Values.externalSecrets.enabled }}
- secretRef: {name: {{ include "gatehouse.externalSecretName" . }}}
{{- end }}
{{- with .Values.secrets.existingSecret }}
- secretRef: {name: {{ . | quote }}}
{{- end }}
{{- with .Values.envFrom }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gatehouse.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.storage.enabled }}
- {name: data, mountPath: {{ .Values.storage.mountPath | quote }}}
{{- end }}
{{- if or .Values.accessPolicy.policy .Values.accessPolicy.existingConfigMap.name }}
- {name: access, mountPath: /etc/gatehouse/access, readOnly: true} # the whole folder: a single file would never change
{{- end }}
{{- if .Values.oauthProxyConfig.existingSecret }}
- {name: proxy, mountPath: /etc/gatehouse/proxy, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gatehouse.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- if .Values.storage.enabled }}
- name: data
  persistentVolumeClaim: {claimName: {{ include "gatehouse.fullname" . }}}
{{- end }}
{{- if .Values.accessPolicy.existingConfigMap.name }}
- name: access
  configMap:
    name: {{ .Values.accessPolicy.existingConfigMap.name | quote }}
    items: [{key: {{ .Values.accessPolicy.existingConfigMap.key | quote }}, path: access.yaml}]
{{- else if .Values.accessPolicy.policy }}
- name: access
  configMap: {name: {{ include "gatehouse.fullname" . }}-access}
{{- end }}
{{- if .Values.oauthProxyConfig.existingSecret }}
- name: proxy
  secret:
    secretName: {{ .Values.oauthProxyConfig.existingSecret | quote }}
    items: [{key: {{ .Values.oauthProxyConfig.key | quote }}, path: oauth2_proxy.cfg}]
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What all pods of the release have in common. */}}
{{- define "gatehouse.podSpec" -}}
serviceAccountName: {{ include "gatehouse.serviceAccountName" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- $context := deepCopy .Values.podSecurityContext }}
  {{- if and .Values.storage.enabled (not (kindIs "invalid" .Values.storage.fsGroup)) }}
  {{- $context = merge $context (dict "fsGroup" (int64 .Values.storage.fsGroup) "fsGroupChangePolicy" "OnRootMismatch") }}
  {{- end }}
  {{- toYaml $context | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
volumes: {{- include "gatehouse.volumes" . | nindent 2 }}
{{- end }}

{{/* A container of the image: what the server and the Jobs have in common. */}}
{{- define "gatehouse.container" -}}
image: {{ include "gatehouse.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError # `kubectl describe pod` tells the reason
env: {{- include "gatehouse.env" . | nindent 2 }}
{{- with include "gatehouse.envFrom" . }}
envFrom: {{- . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts: {{- include "gatehouse.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "gatehouse.podMeta" -}}
labels:
  {{- include "gatehouse.selectorLabels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
