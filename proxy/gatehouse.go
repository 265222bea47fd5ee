package main

// What Gatehouse adds to oauth2-proxy: build.sh puts this file beside oauthproxy.go, and calls it from there.
//
// A credential that isn't oauth2-proxy's to judge (a machine's token without an e-mail address, a key of Gatehouse's) is
// handed on to the upstream without a session, and so without an identity and without the proof; the upstream verifies it
// or refuses (gatehouse/pipeline/authentication.py). Everything else that oauth2-proxy refuses is refused here, with the reason.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	middlewareapi "github.com/oauth2-proxy/oauth2-proxy/v7/pkg/apis/middleware"
	sessionsapi "github.com/oauth2-proxy/oauth2-proxy/v7/pkg/apis/sessions"
	"github.com/oauth2-proxy/oauth2-proxy/v7/pkg/logger"
	internaloidc "github.com/oauth2-proxy/oauth2-proxy/v7/pkg/providers/oidc"
	"github.com/oauth2-proxy/oauth2-proxy/v7/pkg/requests"
	"github.com/oauth2-proxy/oauth2-proxy/v7/providers"
)

const (
	// No issuer's token is longer; it is refused before anything parses it.
	longestToken = 16 << 10
	// What a refusal repeats of what a client sent.
	longestQuote = 120
	// What people see who have signed out, where their provider shows nothing: gatehouse/public/discovery.py.
	signedOutPath = "/gatehouse/signed-out"
)

var (
	// The issuers whose tokens the upstream verifies, separated by spaces, and the prefix of its keys; the supervisor sets
	// both.
	handedOnIssuers = strings.Fields(os.Getenv("GATEHOUSE_ISSUERS"))
	keyPrefix       = os.Getenv("GATEHOUSE_KEY_PREFIX")

	// A whole key, wherever it stands: six of its signs are a checksum, so no word is taken for one.
	wholeKey = regexp.MustCompile(regexp.QuoteMeta(keyPrefix) + "[0-9A-Za-z]{38}")

	// The provider at which people sign in, and where it ends their sessions, once that is known.
	issuer     = os.Getenv("GATEHOUSE_ISSUER")
	endSession atomic.Pointer[string]

	// The mail domains of a company whose accounts are Google's, separated by spaces.
	googleDomains = strings.Fields(os.Getenv("GATEHOUSE_GOOGLE_DOMAINS"))

	isToken = regexp.MustCompile(`^[a-zA-Z0-9_-]+\.[a-zA-Z0-9_-]+\.[a-zA-Z0-9_-]*$`)
)

// claims is what is read of a token that nobody has verified: to choose who does, and to word a refusal.
type claims struct {
	Issuer       string `json:"iss"`
	Audience     any    `json:"aud"`
	HostedDomain string `json:"hd"`
}

// credential returns what an Authorization header brings: a bearer token, or a password.
func credential(header string) string {
	scheme, rest, _ := strings.Cut(header, " ")
	switch strings.ToLower(scheme) {
	case "bearer":
		return strings.TrimSpace(rest)
	case "basic":
		pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
		if err != nil {
			return ""
		}
		user, password, _ := strings.Cut(string(pair), ":")
		if password == "" || password == "x-oauth-basic" {
			return user
		}
		return password
	}
	return ""
}

// read returns the claims of a token without verifying them.
func read(token string) (claims, bool) {
	var found claims
	if len(token) > longestToken || !isToken.MatchString(token) {
		return found, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	return found, err == nil && json.Unmarshal(payload, &found) == nil
}

// isHandedOn returns whether a credential is the upstream's to judge, where oauth2-proxy takes it for nobody's.
func isHandedOn(text string) bool {
	if keyPrefix != "" && strings.HasPrefix(text, keyPrefix) {
		return true
	}
	found, ok := read(text)
	return ok && slices.Contains(handedOnIssuers, found.Issuer)
}

// refuseAtOnce answers what is refused whoever asks; it returns whether it did.
func (p *OAuthProxy) refuseAtOnce(rw http.ResponseWriter, req *http.Request) bool {
	// A client can't name the headers of the proxy as those of a hop, which would keep them from the upstream.
	req.Header.Del("Connection")
	if keyPrefix != "" {
		unescaped, err := url.QueryUnescape(req.URL.RawQuery)
		if wholeKey.MatchString(req.URL.RawQuery) || err == nil && wholeKey.MatchString(unescaped) {
			unauthenticated(rw, "A key in an address ends up in logs and histories, so it no longer is a secret: revoke it "+
				"(gatehouse keys revoke), make another, and send that as Authorization: Bearer KEY.")
			return true
		}
	}
	header := req.Header.Values("Authorization")
	if len(header) > 1 {
		unauthenticated(rw, "Two Authorization headers came at once; send one.")
		return true
	}
	if len(header) == 1 && p.hasSessionCookie(req) {
		text := credential(header[0])
		if isHandedOn(text) || strings.HasPrefix(strings.ToLower(header[0]), "bearer ") {
			unauthenticated(rw, "Two credentials came at once, a session cookie and an Authorization header; send one.")
			return true
		}
	}
	return false
}

func (p *OAuthProxy) hasSessionCookie(req *http.Request) bool {
	for _, cookie := range req.Cookies() {
		name, ok := strings.CutPrefix(cookie.Name, p.CookieOptions.Name)
		if ok && cookie.Value != "" && strings.Trim(name, "_0123456789") == "" {
			return true
		}
	}
	return false
}

// handOn passes a request whose credential the upstream judges on to it; it returns whether it did.
func (p *OAuthProxy) handOn(rw http.ResponseWriter, req *http.Request) bool {
	header := req.Header.Get("Authorization")
	if !isHandedOn(credential(header)) {
		return false
	}
	// Without a session, the chain takes every identity header off and puts none in its place.
	middlewareapi.GetRequestScope(req).Session = nil
	p.headersChain.Then(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		req.Header.Set("Authorization", header)
		p.upstreamProxy.ServeHTTP(rw, req)
	})).ServeHTTP(rw, req)
	return true
}

// isTheCompanys returns whether an account with an address of the company's is the company's. Anybody can make a Google
// account with an address that isn't Google's, and keeps it after leaving: the claim hd tells the company's own from it
// (developers.google.com/identity/openid-connect/openid-connect, "An ID token's payload"). It stands in the token, which
// oauth2-proxy has verified; service accounts have none, and nobody else can have their addresses.
func isTheCompanys(session *sessionsapi.SessionState) bool {
	_, domain, _ := strings.Cut(strings.ToLower(session.Email), "@")
	isCompanys := func(name string) bool {
		return slices.ContainsFunc(googleDomains, func(ours string) bool {
			return name == ours || strings.HasSuffix(name, "."+ours)
		})
	}
	if !isCompanys(domain) || strings.HasSuffix(domain, "gserviceaccount.com") || session.IDToken == "" {
		return true
	}
	found, ok := read(session.IDToken)
	if ok && strings.TrimPrefix(found.Issuer, "https://") != "accounts.google.com" {
		return true // of another issuer, which OAUTH2_PROXY_EXTRA_JWT_ISSUERS names: it vouches for its own addresses
	}
	hosted := strings.ToLower(found.HostedDomain)
	return ok && hosted != "" && (hosted == domain || isCompanys(hosted))
}

// unauthenticated answers 401 in MLflow's shape.
func unauthenticated(rw http.ResponseWriter, message string) {
	rw.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse", error="invalid_token"`)
	refusal(rw, http.StatusUnauthorized, "UNAUTHENTICATED", message)
}

func refusal(rw http.ResponseWriter, code int, name, message string) {
	body, err := json.Marshal(map[string]string{"error_code": name, "message": message})
	if err != nil {
		panic(err) // there is nothing in it but text
	}
	rw.Header().Set("Content-Type", applicationJSON)
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	prepareNoCache(rw)
	rw.WriteHeader(code)
	if _, err := rw.Write(body); err != nil {
		logger.Errorf("Error answering: %v", err)
	}
}

// refuseStranger says why a request has no session.
func (p *OAuthProxy) refuseStranger(rw http.ResponseWriter, req *http.Request) {
	header := req.Header.Get("Authorization")
	if header == "" {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse"`)
		text := "This needs a sign-in: open the address in a browser, or send a token as Authorization: Bearer TOKEN."
		if p.hasSessionCookie(req) {
			text = "The session has ended: sign in again."
		}
		refusal(rw, http.StatusUnauthorized, "UNAUTHENTICATED", text)
		return
	}
	unauthenticated(rw, p.reason(credential(header), middlewareapi.GetRequestScope(req).Refusal))
}

// reason words why a bearer token was refused. The errors are those of go-oidc, most of which have no type of their own.
func (p *OAuthProxy) reason(token string, err error) string {
	found, ok := read(token)
	said := ""
	if err != nil {
		said = err.Error()
	}
	has := func(text string) bool { return strings.Contains(said, text) }
	data := p.provider.Data()
	switch {
	case len(token) > longestToken:
		return fmt.Sprintf("The token has %d bytes; none may have more than %d.", len(token), longestToken)
	case !ok:
		return "The Authorization header holds no identity token (a JWT in three parts): send Authorization: Bearer TOKEN."
	case errors.Is(err, providers.ErrEmailNotVerified) || has("isn't verified"):
		return "The identity provider hasn't verified the e-mail address of this account (email_verified is false): " +
			"verify it there."
	case errors.Is(err, internaloidc.ErrInvalidAudience):
		return fmt.Sprintf("The token is for another audience (%s); ask for one for this server: "+
			"/.well-known/gatehouse lists the audiences that it takes.", quote(fmt.Sprint(found.Audience)))
	case has("token is expired"):
		return "The token has expired: ask for a new one."
	case has("before the nbf"):
		return "The token isn't valid yet (nbf): compare the clocks."
	case has("fetching keys"):
		return "The identity provider's keys can't be fetched now: try again."
	case has("failed to verify signature") || has("failed to verify id token signature"):
		return fmt.Sprintf("The token isn't signed by a key of %s.", quote(found.Issuer))
	case has("malformed jwt") || has("unexpected signature algorithm") || has("signed with unsupported algorithm"):
		return "The token's form or algorithm isn't one that is taken here."
	case has("issued by a different provider"):
		return fmt.Sprintf("The token's issuer is %s, and tokens of that one aren't taken here.", quote(found.Issuer))
	case data.Verifier == nil && len(found.Issuer) > 0:
		return fmt.Sprintf("No token of %s is taken here.", quote(found.Issuer))
	}
	return "The token can't be used here: the gate's log says why."
}

// deny says why a session, or a token that was verified, isn't let in; where a person is looking it leaves that to the
// page and returns false.
func (p *OAuthProxy) deny(rw http.ResponseWriter, req *http.Request) bool {
	if !isAjax(req) && !p.isAPIPath(req) {
		return false
	}
	text := "This account isn't allowed here: the token is valid, but its e-mail address isn't on the list. Ask whoever " +
		"runs this MLflow, or use another account."
	session := middlewareapi.GetRequestScope(req).Session
	if session != nil && !isTheCompanys(session) {
		text = "This Google account has an address of the company's, and isn't the company's: it has no hosted domain (hd). " +
			"Use the account that the company gave you."
	}
	if session != nil && !strings.Contains(session.Email, "@") {
		text = "The token has no e-mail address in it, and isn't that of a machine that this MLflow knows. For a service " +
			"account of Google's, ask for one with the address: gcloud auth print-identity-token --include-email, or " +
			"format=full at the metadata server."
	}
	rw.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse", error="insufficient_scope"`)
	refusal(rw, http.StatusForbidden, "PERMISSION_DENIED", text)
	return true
}

// signInFailed shows the page of a sign-in that came to nothing, with a reason that helps.
func (p *OAuthProxy) signInFailed(rw http.ResponseWriter, req *http.Request, err error) {
	switch {
	case errors.Is(err, providers.ErrEmailNotVerified):
		p.ErrorPage(rw, req, http.StatusForbidden, err.Error(),
			"The identity provider hasn't verified this account's e-mail address (email_verified is false). Verify it there.")
	case strings.Contains(err.Error(), "set an email"):
		p.ErrorPage(rw, req, http.StatusForbidden, err.Error(),
			"The identity provider gave no e-mail address for this account. Add one there, and let the client have the claim.")
	default:
		p.ErrorPage(rw, req, http.StatusInternalServerError, err.Error())
	}
}

// afterSignOut returns where a browser goes that has signed out here: to the provider, which ends its own session too
// (OpenID Connect RP-Initiated Logout 1.0), or to a page that says that it doesn't. Without that, the next page would sign
// the same person in again. An address of the caller's own choice stays.
func (p *OAuthProxy) afterSignOut(req *http.Request, redirect string) string {
	if issuer == "" || redirect != "/" {
		return redirect
	}
	session := middlewareapi.GetRequestScope(req).Session
	endpoint := p.endSessionEndpoint(req.Context())
	if endpoint == "" || session == nil || session.IDToken == "" {
		return signedOutPath
	}
	target, err := url.Parse(endpoint)
	if err != nil {
		return signedOutPath
	}
	query := target.Query()
	query.Set("id_token_hint", session.IDToken)
	query.Set("client_id", p.provider.Data().ClientID)
	target.RawQuery = query.Encode()
	return target.String()
}

// endSessionEndpoint returns the end_session_endpoint of the provider's discovery document; empty if it has none, or
// doesn't answer.
func (p *OAuthProxy) endSessionEndpoint(ctx context.Context) string {
	if known := endSession.Load(); known != nil {
		return *known
	}
	if !strings.HasPrefix(issuer, "http") {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	address := strings.TrimRight(issuer, "/") + "/.well-known/openid-configuration"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return ""
	}
	answer, err := requests.DefaultHTTPClient.Do(request)
	if err != nil {
		logger.Errorf("Error asking the provider where sessions end: %v", err)
		return ""
	}
	defer answer.Body.Close()
	var document struct {
		Issuer   string `json:"issuer"`
		Endpoint string `json:"end_session_endpoint"`
	}
	err = json.NewDecoder(io.LimitReader(answer.Body, 256<<10)).Decode(&document)
	if err != nil || answer.StatusCode != http.StatusOK || document.Issuer != issuer {
		return ""
	}
	// The hint is somebody's token: it goes where the issuer's own connections are as safe.
	if !strings.HasPrefix(document.Endpoint, "https://") && !strings.HasPrefix(issuer, "http://") {
		document.Endpoint = ""
	}
	endSession.Store(&document.Endpoint)
	return document.Endpoint
}

func quote(text string) string {
	if len(text) > longestQuote {
		text = text[:longestQuote] + "…"
	}
	return fmt.Sprintf("%q", text)
}
