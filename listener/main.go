// Command gatehouse-listener is the public listener where HTTP2=true: HTTP/1.1 and HTTP/2, both in cleartext, on one
// port. Each request goes on to oauth2-proxy's Unix socket as HTTP/1.1, its body and its answer as they come.
//
// LISTENER_ADDRESS (host:port) and LISTENER_SOCKET (a path) say where; the supervisor sets them. It listens once
// oauth2-proxy does, and ends with 0 after TERM or INT when every request has been answered; the supervisor limits that wait.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// As oauth2-proxy's own listener has it (pkg/proxyhttp/server.go).
	headerTimeout = time.Minute
	// Longer than the platform's front end keeps a connection (Google's load balancers: 600 s), so that it is never closed
	// under a request on its way.
	idleTimeout = 620 * time.Second
	// What a stream may have sent that oauth2-proxy hasn't taken yet. A connection's window is the most that net/http
	// allows: so many streams must stall before they hold up the others.
	streamWindow     = 128 << 10
	connectionWindow = 4<<20 - 1
	// The most requests at once that Cloud Run gives an instance.
	streams = 1000
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("gatehouse-listener: ")
	if err := serve(os.Getenv("LISTENER_ADDRESS"), os.Getenv("LISTENER_SOCKET")); err != nil {
		log.Fatalf("error: %v", err)
	}
}

func serve(address, socket string) error {
	waitFor(socket)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           wellFramed(newProxy(socket)),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streams,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connectionWindow,
		},
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-stop:
		return server.Shutdown(context.Background())
	}
}

// waitFor returns once something listens on the socket: nobody else is told when oauth2-proxy is ready.
func waitFor(socket string) {
	for {
		connection, err := net.Dial("unix", socket)
		if err == nil {
			connection.Close()
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func newProxy(socket string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:       rewrite,
		FlushInterval: -1,
		ErrorHandler:  refuse,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			DisableCompression: true,
			// A refused upload is never sent: oauth2-proxy answers before it asks for the body.
			ExpectContinueTimeout: time.Second,
			MaxIdleConnsPerHost:   streams,
			IdleConnTimeout:       90 * time.Second,
		},
	}
}

// wellFramed refuses a body whose announced length isn't one number (RFC 9113, 8.1.1). net/http does so for HTTP/1.1;
// over HTTP/2 it reads such a length as 0, and an empty body would go on in the place of what is still to come.
func wellFramed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lengths, ok := r.Header["Content-Length"]; ok && (len(lengths) != 1 || !isLength(lengths[0])) {
			answer(w, http.StatusBadRequest, "BAD_REQUEST", "The header Content-Length must be one number of bytes.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLength(text string) bool {
	_, err := strconv.ParseUint(text, 10, 63)
	return err == nil
}

// rewrite lets oauth2-proxy see the request as it came. The peer's address, which a Unix socket can't show it, is
// appended here as oauth2-proxy would have done.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "oauth2-proxy"
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
	peer, _, err := net.SplitHostPort(r.In.RemoteAddr)
	if err != nil {
		panic(fmt.Sprintf("a TCP connection from %q", r.In.RemoteAddr))
	}
	r.Out.Header.Set("X-Forwarded-For", strings.Join(append(r.In.Header["X-Forwarded-For"], peer), ", "))
	// No other protocol gets past this one.
	r.Out.Header.Del("Connection")
	r.Out.Header.Del("Upgrade")
}

// refuse answers where oauth2-proxy doesn't.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, context.Canceled) {
		log.Printf("%s: %v", r.Method, err)
	}
	answer(w, http.StatusBadGateway, "TEMPORARILY_UNAVAILABLE", "The request could not be passed on.")
}

// answer writes an error in MLflow's shape.
func answer(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error_code": %q, "message": %q}`, code, message)
}
