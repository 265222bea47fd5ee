#!/usr/bin/env bash
# cluster.sh up|down|load IMAGE...: a Kubernetes node of this machine's own, by the real programs and nothing of a distribution.
#
# etcd, API server, controller manager, scheduler, kube-proxy and kubelet of the pinned version (node/go.mod), Debian's containerd,
# runc and CNI plug-ins. `up` prints the kubeconfig's path once the node is ready; `load` brings images of the Docker engine
# to it; `down` ends pods and programs, and leaves nothing but a log folder. Needs root; everything listens on loopback or on the
# pods' bridge, has its own ports and its state in .build/cluster.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly STATE="${CLUSTER_STATE:-$PWD/.build/cluster}"
readonly LOGS=$STATE/log RUN=$STATE/run PKI=$STATE/pki
readonly BRIDGE=gh-pods NETWORK=10.231.0 SERVICES=10.232.0
readonly NODE=gatehouse
readonly START_LIMIT=180 # seconds for each part, on a machine that has other work too
readonly PLUGINS=/usr/lib/cni

say() { printf 'cluster.sh: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

main() {
  case "${1:-} $#" in
    'up 1') up ;;
    'down 1') down ;;
    load\ *) shift && load "$@" ;;
    *) die "usage: cluster.sh up|down|load IMAGE..." ;;
  esac
}

up() {
  [[ $EUID == 0 ]] || die "not root, who alone can start containers"
  need etcd etcd-server
  need containerd containerd
  need runc runc
  need dnsmasq dnsmasq-base
  need conntrack conntrack
  need iptables iptables
  need openssl openssl
  [[ -x $PLUGINS/bridge ]] || die "$PLUGINS/bridge is missing; the fix: apt-get install --yes containernetworking-plugins"
  if [[ -s $RUN/kubelet.pid ]] && kill -0 "$(<"$RUN/kubelet.pid")" 2>/dev/null; then
    say "is up already"
    printf '%s\n' "$STATE/admin.kubeconfig"
    return
  fi
  PROGRAMS=$(.venv/bin/python -m tests.kubernetes.node_binary)
  rm -rf "$STATE"
  mkdir -p "$LOGS" "$RUN" "$PKI" "$STATE"/{cni,etcd,manifests,hosts}
  trap 'status=$?; ((status == 0)) || { tail_logs; down; }' EXIT
  read -r ETCD ETCD_PEER API CONTROLLER SCHEDULER KUBELET KUBELET_HEALTH PROXY PROXY_METRICS <<<"$(free_ports 9)"
  make_keys
  start_etcd
  start_api_server
  start_controllers
  start_containerd
  make_pause_image
  make_bridge
  start_kubelet
  start_services
  wait_for "the node" node_is_ready
  trap - EXIT
  say "the node is ready: export KUBECONFIG=$STATE/admin.kubeconfig"
  printf '%s\n' "$STATE/admin.kubeconfig"
}

need() { command -v "$1" >/dev/null || die "$1 is missing; the fix: apt-get install --yes $2"; }

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in held))
PYTHON
}

# start NAME COMMAND...: in a session of its own, with its log and its process id kept.
start() {
  local name=$1
  shift
  setsid "$@" >"$LOGS/$name.log" 2>&1 </dev/null &
  echo $! >"$RUN/$name.pid"
}

# wait_for WHAT COMMAND...: until it succeeds. None of these programs tells when it is ready, so it is asked.
wait_for() {
  local what=$1 deadline=$((SECONDS + START_LIMIT))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "$what isn't there after $START_LIMIT s; see $LOGS"
    all_run || die "a program ended before $what was there; see $LOGS"
    sleep 0.3
  done
}

all_run() {
  local file
  for file in "$RUN"/*.pid; do kill -0 "$(<"$file")" 2>/dev/null || { say "$(basename "$file" .pid) ended"; return 1; }; done
}

tail_logs() {
  local file
  for file in "$LOGS"/*.log; do
    printf -- '--- %s\n' "$file" >&2
    tail -n 12 "$file" >&2
  done
}

api() { kubectl --kubeconfig "$STATE/admin.kubeconfig" "$@"; }
node_is_ready() { [[ $(api get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]; }

make_keys() {
  local name group
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=gatehouse-tests -keyout "$PKI/ca.key" -out "$PKI/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout "$PKI/api.key" -out "$PKI/api.csr" 2>/dev/null
  openssl x509 -req -in "$PKI/api.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 -out "$PKI/api.crt" 2>/dev/null \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1,IP:%s.1,IP:%s.1,DNS:localhost,DNS:kubernetes.default.svc' "$SERVICES" "$NETWORK")
  # As whom the API server asks the kubelet for logs.
  openssl req -newkey rsa:2048 -nodes -subj /O=system:masters/CN=kube-apiserver -keyout "$PKI/asks.key" -out "$PKI/asks.csr" 2>/dev/null
  openssl x509 -req -in "$PKI/asks.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 -out "$PKI/asks.crt" 2>/dev/null
  openssl genrsa -out "$PKI/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$PKI/accounts.key" -pubout -out "$PKI/accounts.pub" 2>/dev/null
  while read -r name group; do
    local token user=$name
    token=$(openssl rand -hex 24)
    [[ $name != kubelet ]] || user=system:node:$NODE
    printf '%s,%s,%s,"%s"\n' "$token" "$user" "$name" "$group" >>"$PKI/tokens.csv"
    kubeconfig "$name" "$token"
  done <<<'admin system:masters
system:kube-controller-manager
system:kube-scheduler
system:kube-proxy
kubelet system:nodes'
}

# kubeconfig NAME TOKEN
kubeconfig() {
  cat >"$STATE/${1#system:}.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: tests
clusters: [{name: tests, cluster: {server: "https://127.0.0.1:$API", certificate-authority: "$PKI/ca.crt"}}]
contexts: [{name: tests, context: {cluster: tests, user: user}}]
users: [{name: user, user: {token: "$2"}}]
YAML
  chmod 600 "$STATE/${1#system:}.kubeconfig"
}

start_etcd() {
  start etcd etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$ETCD" --advertise-client-urls "http://127.0.0.1:$ETCD" \
    --listen-peer-urls "http://127.0.0.1:$ETCD_PEER" --initial-advertise-peer-urls "http://127.0.0.1:$ETCD_PEER" \
    --initial-cluster "default=http://127.0.0.1:$ETCD_PEER"
}

start_api_server() {
  start kube-apiserver "$PROGRAMS/kube-apiserver" --etcd-servers "http://127.0.0.1:$ETCD" \
    --bind-address 127.0.0.1 --secure-port "$API" --advertise-address "$NETWORK.1" --endpoint-reconciler-type none \
    --tls-cert-file "$PKI/api.crt" --tls-private-key-file "$PKI/api.key" --cert-dir "$PKI" \
    --token-auth-file "$PKI/tokens.csv" --authorization-mode Node,RBAC --service-cluster-ip-range "$SERVICES.0/24" \
    --service-account-key-file "$PKI/accounts.pub" --service-account-signing-key-file "$PKI/accounts.key" \
    --service-account-issuer https://kubernetes.default.svc --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$PKI/asks.crt" --kubelet-client-key "$PKI/asks.key"
  wait_for "the API server" api get --raw /readyz
}

start_controllers() {
  start kube-controller-manager "$PROGRAMS/kube-controller-manager" --kubeconfig "$STATE/kube-controller-manager.kubeconfig" \
    --authentication-kubeconfig "$STATE/kube-controller-manager.kubeconfig" --authorization-kubeconfig "$STATE/kube-controller-manager.kubeconfig" \
    --bind-address 127.0.0.1 --secure-port "$CONTROLLER" --cert-dir "$PKI" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file "$PKI/accounts.key" --root-ca-file "$PKI/ca.crt"
  start kube-scheduler "$PROGRAMS/kube-scheduler" --kubeconfig "$STATE/kube-scheduler.kubeconfig" \
    --authentication-kubeconfig "$STATE/kube-scheduler.kubeconfig" --authorization-kubeconfig "$STATE/kube-scheduler.kubeconfig" \
    --bind-address 127.0.0.1 --secure-port "$SCHEDULER" --leader-elect=false
}

start_containerd() {
  cat >"$STATE/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$STATE/ipam", "ranges": [[{"subnet": "$NETWORK.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # restrict_oom_score_adj: in a container that runs this, root may not lower the score, and runc dies of trying.
  cat >"$STATE/containerd.toml" <<TOML
version = 2
root = "$STATE/containerd"
state = "$RUN/containerd"
oom_score = 0
[grpc]
  address = "$RUN/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "gatehouse/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$PLUGINS"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
  start containerd containerd --config "$STATE/containerd.toml"
  wait_for containerd containers version
}

containers() { ctr --address "$RUN/containerd.sock" --namespace k8s.io "$@"; }

# What holds a pod's namespaces: the one program of a pod that isn't the pod's. Waits for signals, and for children of nobody.
make_pause_image() {
  local build=$STATE/pause
  mkdir -p "$build"
  cat >"$build/main.go" <<'GO'
package main

import ("os"; "os/signal"; "syscall")

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
}
GO
  CGO_ENABLED=0 GO111MODULE=off go build -ldflags '-s -w' -o "$build/pause" "$build/main.go"
  python3 - "$build" <<'PYTHON'
import hashlib, io, json, pathlib, tarfile, sys
folder = pathlib.Path(sys.argv[1])
def tar(path, files):
    with tarfile.open(path, "w") as made:
        for name, content, mode in files:
            info = tarfile.TarInfo(name); info.size, info.mode = len(content), mode
            made.addfile(info, io.BytesIO(content))
tar(folder / "layer.tar", [("pause", (folder / "pause").read_bytes(), 0o755)])
layer = (folder / "layer.tar").read_bytes()
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"], "User": "65535"},
                     "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}).encode()
manifest = json.dumps([{"Config": "config.json", "RepoTags": ["gatehouse/pause:1"], "Layers": ["layer.tar"]}]).encode()
tar(folder / "image.tar", [("config.json", config, 0o644), ("manifest.json", manifest, 0o644), ("layer.tar", layer, 0o644)])
PYTHON
  containers image import "$build/image.tar" >/dev/null
  containers image tag docker.io/gatehouse/pause:1 gatehouse/pause:1 >/dev/null 2>&1 || true
}

# It would come with the first pod; the node has its address on it, and the names' server listens there.
make_bridge() {
  ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
  ip address replace "$NETWORK.1/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  sysctl --quiet --write net.ipv4.ip_forward=1
}

start_kubelet() {
  cat >"$STATE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NETWORK.1
port: $KUBELET
healthzPort: $KUBELET_HEALTH
readOnlyPort: 0
cgroupDriver: cgroupfs
cgroupRoot: /gatehouse-tests
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix://$RUN/containerd.sock
clusterDNS: [$NETWORK.1]
clusterDomain: cluster.local
resolvConf: $STATE/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$PKI/ca.crt"}}
authorization: {mode: Webhook}
evictionHard: {memory.available: 64Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
syncFrequency: 10s
configMapAndSecretChangeDetectionStrategy: Watch
shutdownGracePeriod: 0s
volumePluginDir: $STATE/volume-plugins
YAML
  : >"$STATE/resolv.conf"
  own_cgroups mkdir -p
  start kubelet "$PROGRAMS/kubelet" --config "$STATE/kubelet.yaml" --kubeconfig "$STATE/kubelet.kubeconfig" \
    --root-dir "$STATE/kubelet" --cert-dir "$PKI/kubelet" --hostname-override "$NODE" --node-ip "$NETWORK.1"
}

# own_cgroups COMMAND...: with the folder that all pods are in, of each hierarchy (version 1) or of the one (version 2).
own_cgroups() {
  local folder
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    "$@" /sys/fs/cgroup/gatehouse-tests
    return
  fi
  for folder in /sys/fs/cgroup/*/; do
    if [[ -e $folder/cgroup.procs ]]; then "$@" "${folder}gatehouse-tests"; fi
  done
}

remove_cgroups() { if [[ -d $1 ]]; then find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi; }

start_services() {
  start kube-proxy "$PROGRAMS/kube-proxy" --kubeconfig "$STATE/kube-proxy.kubeconfig" --hostname-override "$NODE" \
    --cluster-cidr "$NETWORK.0/24" --proxy-mode iptables --masquerade-all --healthz-bind-address "127.0.0.1:$PROXY" \
    --metrics-bind-address "127.0.0.1:$PROXY_METRICS" --conntrack-max-per-core 0
  start dnsmasq dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
    --interface="$BRIDGE" --except-interface=lo --listen-address="$NETWORK.1" --hostsdir="$STATE/hosts" \
    --local=/cluster.local/ --user=root --pid-file=
  start names bash -c "while sleep 0.3; do kubectl --kubeconfig '$STATE/admin.kubeconfig' get services --all-namespaces --output \
    jsonpath='{range .items[*]}{.spec.clusterIP} {.metadata.name}.{.metadata.namespace}.svc.cluster.local{\"\n\"}{end}' >'$STATE/names.new' 2>/dev/null \
    && ! cmp -s '$STATE/names.new' '$STATE/hosts/names' && cp '$STATE/names.new' '$STATE/hosts/names'; sleep 0.7; done"
}

# load IMAGE...: from the Docker engine to the node.
load() {
  local image
  for image in "$@"; do
    docker save "$image" | containers image import --no-unpack=false - >/dev/null 2>&1 || docker save "$image" | containers image import - >/dev/null
    say "loaded $image"
  done
}

down() {
  [[ -d $RUN ]] || { say "nothing of ours to end"; return; }
  local name pid
  # Pods first: their shims outlive containerd.
  if [[ -s $RUN/kubelet.pid ]]; then end kubelet; fi
  if [[ -S $RUN/containerd.sock ]] && command -v ctr >/dev/null; then
    for pid in $(containers task list 2>/dev/null | awk 'NR > 1 { print $2 }'); do
      if [[ $pid -gt 1 ]]; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    for name in $(containers task list -q 2>/dev/null); do containers task delete --force "$name" >/dev/null 2>&1 || true; done
    for name in $(containers container list -q 2>/dev/null); do containers container delete "$name" >/dev/null 2>&1 || true; done
  fi
  for pid in $(pgrep --full -- "-address $RUN/containerd.sock" || true); do kill "$pid" 2>/dev/null || true; done
  if [[ -s $RUN/kube-proxy.pid ]]; then
    end kube-proxy
  fi
  for name in names dnsmasq containerd kube-scheduler kube-controller-manager kube-apiserver etcd; do end "$name"; done
  clean_network
  own_cgroups remove_cgroups
  local mount
  # The deepest first.
  awk -v state="$STATE/" 'index($2, state) == 1 { print $2 }' /proc/self/mounts | sort -r |
    while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
  find "$STATE" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} + 2>/dev/null || true
  say "is down; its logs are in $LOGS"
}

# end NAME: ask it to, and make it after a while. The number may be somebody else's by now: look before shooting.
end() {
  local file=$RUN/$1.pid pid
  [[ -s $file ]] || return 0
  pid=$(<"$file")
  rm -f "$file"
  case "$(ps -o comm= -p "$pid" 2>/dev/null)" in
    kube* | etcd | containerd | dnsmasq | bash) ;;
    *) return 0 ;;
  esac
  kill "$pid" 2>/dev/null || return 0
  timeout 20 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
}

clean_network() {
  local programs
  programs=$(find .build -maxdepth 1 -name 'kubernetes-*' -exec test -e '{}/kube-proxy' ';' -print 2>/dev/null | head -n 1)
  if [[ -n $programs ]]; then "$programs/kube-proxy" --cleanup >/dev/null 2>&1 || true; fi
  # Its own clean-up forgets this one.
  local hook
  for hook in INPUT OUTPUT; do iptables -D "$hook" -j KUBE-FIREWALL 2>/dev/null || true; done
  { iptables -F KUBE-FIREWALL && iptables -X KUBE-FIREWALL; } 2>/dev/null || true
  ip link delete "$BRIDGE" 2>/dev/null || true
  # What the plug-in that masquerades left, for pods that nobody told it to forget.
  local chain
  for chain in $(iptables -t nat -S 2>/dev/null | awk -v net="$NETWORK." '/^-A POSTROUTING/ && index($0, net) { for (i = 1; i < NF; i++) if ($i == "-j") print $(i + 1) }' | sort -u); do
    iptables -t nat -S POSTROUTING | grep -- "-j $chain" | sed 's/^-A/-D/' | while read -r rule; do eval "iptables -t nat $rule"; done
    iptables -t nat -F "$chain" 2>/dev/null && iptables -t nat -X "$chain" 2>/dev/null || true
  done
}

main "$@"
