package rest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // what a Status may hold
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Credentials are what a Conn says who it is with.
type Credentials interface {
	// Bearer is what stands in the header Authorization; empty: nothing.
	Bearer(ctx context.Context) (string, error)
	// Renew is told that a bearer was refused, and whether another is to be had in its place.
	Renew(ctx context.Context, refused string) (bool, error)
}

// Anonymous says nothing.
type Anonymous struct{}

// Bearer is none.
func (Anonymous) Bearer(context.Context) (string, error) { return "", nil }

// Renew is not to be had.
func (Anonymous) Renew(context.Context, string) (bool, error) { return false, nil }

// Key is an API key.
type Key string

// Bearer is the key.
func (k Key) Bearer(context.Context) (string, error) { return string(k), nil }

// Renew is not to be had: a key that is refused stays so.
func (Key) Renew(context.Context, string) (bool, error) { return false, nil }

// Conn calls the API of one server. It is safe for use by several goroutines.
type Conn struct {
	base  *url.URL
	http  *http.Client
	agent string
	who   Credentials
}

// maxTries is how often a question that changes nothing is asked where the server cannot answer now.
const maxTries = 3

// New calls the API at base, which ends without a slash, as agent, through client.
func New(base *url.URL, client *http.Client, agent string, who Credentials) *Conn {
	return &Conn{base: base, http: client, agent: agent, who: who}
}

// UnreachableError says that the server did not answer.
type UnreachableError struct {
	// Server is its address.
	Server string
	Err    error
}

// Error names the server and the reason.
func (e *UnreachableError) Error() string {
	var in *url.Error
	if errors.As(e.Err, &in) {
		return e.Server + " cannot be reached: " + in.Err.Error()
	}
	return e.Server + " cannot be reached: " + e.Err.Error()
}

// Unwrap is the reason.
func (e *UnreachableError) Unwrap() error { return e.Err }

// ForeignError says that something answered that is not Cetrus's API.
type ForeignError struct {
	Server      string
	HTTPStatus  int
	ContentType string
}

// Error says what it was instead.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s answered %d %s with %s, as Cetrus's API never does: is that its address, and is there a proxy that wants something?",
		e.Server, e.HTTPStatus, http.StatusText(e.HTTPStatus), cmp.Or(e.ContentType, "nothing"))
}

// Invoke calls a method that answers once.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	b, err := callOf(method)
	if err != nil {
		return err
	}
	in, out := args.(proto.Message), reply.(proto.Message)
	response, err := c.call(ctx, b, in, "application/json")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return &UnreachableError{c.base.String(), err}
	}
	into := out
	if b.responseBody != nil {
		into = out.ProtoReflect().Mutable(b.responseBody).Message().Interface()
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, into); err != nil {
		return &ForeignError{c.base.String(), response.StatusCode, response.Header.Get("Content-Type")}
	}
	return nil
}

// call sends a request of the contract; where it succeeds, the caller closes the body.
func (c *Conn) call(ctx context.Context, b *call, in proto.Message, accept string) (*http.Response, error) {
	path, query, body, err := b.request(in)
	if err != nil {
		return nil, err
	}
	return c.Do(ctx, Request{Method: b.Verb, Path: path, Query: query, Body: body, Accept: accept})
}

// Request is one that names its path itself.
type Request struct {
	Method, Path string
	Query        url.Values
	// Body is JSON; nil: none.
	Body   []byte
	Accept string
}

// Do sends a request. An answer other than success is an error; where there is none, the caller
// closes the body.
func (c *Conn) Do(ctx context.Context, r Request) (*http.Response, error) {
	for try := 1; ; try++ {
		bearer, err := c.who.Bearer(ctx)
		if err != nil {
			return nil, err
		}
		response, err := c.send(ctx, r, bearer)
		if err == nil {
			return response, nil
		}
		switch code := status.Code(err); {
		case try >= maxTries || ctx.Err() != nil:
			return nil, err
		case code == codes.Unauthenticated && bearer != "":
			renewed, renewing := c.who.Renew(ctx, bearer)
			if renewing != nil {
				return nil, renewing
			}
			if !renewed {
				return nil, err
			}
		case code == codes.Unavailable && r.Method == http.MethodGet:
			if !pause(ctx, time.Duration(try)*500*time.Millisecond) {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// pause waits, and tells whether it did to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (c *Conn) send(ctx context.Context, r Request, bearer string) (*http.Response, error) {
	// Not JoinPath: what was escaped in a path stays as it is.
	target := c.base.String() + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	var body io.Reader = http.NoBody
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", c.agent)
	if r.Accept != "" {
		request.Header.Set("Accept", r.Accept)
	}
	if r.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &UnreachableError{c.base.String(), err}
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	return nil, c.failure(response)
}

// failure is the error that an answer tells.
func (c *Conn) failure(response *http.Response) error {
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return &UnreachableError{c.base.String(), err}
	}
	said := &spb.Status{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, said) == nil && said.GetCode() != 0 {
		return status.FromProto(said).Err()
	}
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return &ForeignError{c.base.String(), response.StatusCode, strings.TrimSpace(media)}
}
