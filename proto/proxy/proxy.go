package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// None as a setting goes directly, whatever the environment says.
const None = "none"

// Parse reads a setting: a proxy's URL, http://[user:password@]host:port; nil for "" and None.
func Parse(text string) (*url.URL, error) {
	if text == "" || text == None {
		return nil, nil //nolint:nilnil // There is none.
	}
	// What is wrong with a URL is not repeated: there may be a password in it.
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		return nil, errors.New("the proxy is no http://[user:password@]host:port, nor \"none\"")
	}
	return u, nil
}

// on is the proxy on the way to an address; nil: there is none.
func on(setting, address string) (*url.URL, error) {
	if setting != "" {
		return Parse(setting)
	}
	// As HTTPS_PROXY and NO_PROXY say; this machine itself is never reached by a proxy.
	proxy, err := httpproxy.FromEnvironment().ProxyFunc()(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, errors.New("HTTPS_PROXY in the environment is no URL")
	}
	if proxy != nil && proxy.Scheme != "http" {
		return nil, fmt.Errorf("HTTPS_PROXY in the environment is a proxy by %q; only those by http are known", proxy.Scheme)
	}
	return proxy, nil
}

// Dial connects to an address, through the proxy of a setting or, where that is empty, of the
// environment. The proxy is told who asks.
func Dial(ctx context.Context, setting, who, address string) (net.Conn, error) {
	proxy, err := on(setting, address)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	host := proxy.Host
	if proxy.Port() == "" {
		host = net.JoinHostPort(proxy.Hostname(), "80")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("the proxy %s cannot be reached: %w", host, err)
	}
	through, err := tunnel(ctx, conn, proxy, who, address)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the proxy %s: %w", host, err)
	}
	return through, nil
}

// tunnel has a proxy connect to an address.
func tunnel(ctx context.Context, conn net.Conn, proxy *url.URL, who, address string) (net.Conn, error) {
	// The proxy may say nothing: what it was asked ends with ctx.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{"User-Agent": {who}}}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("ask it: %w", err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	_ = response.Body.Close() // the answer to CONNECT has none
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired && proxy.User == nil:
		return nil, errors.New("it wants a user and a password: give proxy as http://user:password@host:port")
	case response.StatusCode == http.StatusProxyAuthRequired:
		return nil, errors.New("it does not take the user and password of the setting proxy, or wants another kind of sign-in than basic")
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it does not connect to %s: %s", address, response.Status)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	if reader.Buffered() > 0 {
		return &ahead{Conn: conn, reader: reader}, nil
	}
	return conn, nil
}

// ahead is a connection of which some was read before.
type ahead struct {
	net.Conn
	reader *bufio.Reader
}

func (a *ahead) Read(b []byte) (int, error) { return a.reader.Read(b) }
