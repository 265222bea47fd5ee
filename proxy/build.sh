#!/usr/bin/env bash
# build.sh OUT: build oauth2-proxy at the version that go.mod pins, with these things changed:
# - its routers answer a path that isn't in its plainest form ("//", "..", also as %2f and %2e) with a redirect, which
#   MLflow's client follows with an empty body. Let through as it came, the path is judged by the gate;
# - a claim with a control character in it makes a header that no server may send, and so a 502 without a reason. As a
#   byte that is no UTF-8 in its place it reaches the gate, which says what is wrong;
# - gatehouse.go is called where it refuses: what the gate verifies itself is handed on, and a refusal has its reason
#   (docs/decisions/0038); signing out goes on to the provider.
# The version that it reports ends with +gatehouse.N, by which a start knows it.
set -euo pipefail

# One more with each change to what is changed.
readonly CHANGES=5
out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
module=github.com/oauth2-proxy/oauth2-proxy/v7
go mod download "$module"
source=$(go list -m -f '{{.Dir}}' "$module")
version=$(go list -m -f '{{.Version}}' "$module")
changed=$(mktemp -d)
trap 'chmod -R u+w "$changed"; rm -rf "$changed"' EXIT
cp -r "$source" "$changed/module"
chmod -R u+w "$changed/module"

# change FILE OLD NEW: make the one OLD in a file of the module NEW.
change() {
  local file=$changed/module/$1 text
  text=$(<"$file")
  if [[ $text != *"$2"* || ${text#*"$2"} == *"$2"* ]]; then
    echo "build.sh: error: $1 of $module $version doesn't have '$2' exactly once" >&2
    echo "    fix: see what became of its router, and correct this file" >&2
    exit 1
  fi
  printf '%s\n' "${text/"$2"/"$3"}" >"$file"
}

change oauthproxy.go 'mux.NewRouter().UseEncodedPath()' 'mux.NewRouter().SkipClean(true).UseEncodedPath()'
change pkg/upstream/proxy.go 'mux.NewRouter(),' 'mux.NewRouter().SkipClean(true),'
change pkg/header/injector.go $'\t\t\t\theader.Add(name, claim)' "$(
  cat <<'GO'
				// What HTTP takes in a field's value: RFC 9110, section 5.5.
				value := []byte(claim)
				for i, char := range value {
					if char < ' ' || char == 0x7f {
						value[i] = 0xff
					}
				}
				header.Add(name, string(value))
GO
)"
cp gatehouse.go "$changed/module/gatehouse.go"
change pkg/apis/middleware/scope.go $'\tUpstream string\n' $'\tUpstream string\n\n\t// Refusal is why a bearer token was refused.\n\tRefusal error\n'
change pkg/middleware/jwt_session.go \
  'logger.Errorf("Error retrieving session from token in Authorization header: %v", err)' \
  'logger.Errorf("Error retrieving session from token in Authorization header: %v", err); scope.Refusal = err'
change oauthproxy.go \
  $'func (p *OAuthProxy) Proxy(rw http.ResponseWriter, req *http.Request) {\n' \
  $'func (p *OAuthProxy) Proxy(rw http.ResponseWriter, req *http.Request) {\n\tif p.refuseAtOnce(rw, req) {\n\t\treturn\n\t}\n'
change oauthproxy.go $'\tcase ErrNeedsLogin:\n' $'\tcase ErrNeedsLogin:\n\t\tif p.handOn(rw, req) {\n\t\t\treturn\n\t\t}\n'
change oauthproxy.go $'\tcase ErrAccessDenied:\n' $'\tcase ErrAccessDenied:\n\t\tif p.handOn(rw, req) || p.deny(rw, req) {\n\t\t\treturn\n\t\t}\n'
change oauthproxy.go 'p.errorJSON(rw, http.StatusUnauthorized)' 'p.refuseStranger(rw, req)'
change oauthproxy.go \
  $'\thttp.Redirect(rw, req, redirect, http.StatusFound)\n}\n\nfunc (p *OAuthProxy) backendLogout(' \
  $'\thttp.Redirect(rw, req, p.afterSignOut(req, redirect), http.StatusFound)\n}\n\nfunc (p *OAuthProxy) backendLogout('
change oauthproxy.go 'if p.Validator(session.Email) && authorized {' \
  'if p.Validator(session.Email) && isTheCompanys(session) && authorized {'
change oauthproxy.go 'invalidEmail := session.Email != "" && !p.Validator(session.Email)' \
  'invalidEmail := session.Email != "" && (!p.Validator(session.Email) || !isTheCompanys(session))'
for step in redeeming\ code creating\ session; do
  change oauthproxy.go \
    "Error $step during OAuth2 callback: %v\", err)"$'\n\t\tp.ErrorPage(rw, req, callbackErrorStatus(err), err.Error())' \
    "Error $step during OAuth2 callback: %v\", err)"$'\n\t\tp.signInFailed(rw, req, err)'
done

cp go.mod "$changed/go.mod"
cp go.sum "$changed/go.sum"
go mod edit -replace "$module=$changed/module" "$changed/go.mod"
go build -v -modfile "$changed/go.mod" -trimpath -ldflags "-s -w -X $module/pkg/version.VERSION=$version+gatehouse.$CHANGES" -o "$out" "$module"
