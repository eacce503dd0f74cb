package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // what a Status may hold
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// Client asks one platform's API. Its zero value is of no use: see New.
type Client struct {
	base string
	key  string
	http *http.Client
}

// New asks the API at base, such as http://127.0.0.1:8080, with an API key.
func New(base, key string) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), key: key, http: &http.Client{}}
}

// Over asks by another client of HTTP: one that knows other authorities, say.
func (c *Client) Over(client *http.Client) *Client {
	return &Client{base: c.base, key: c.key, http: client}
}

// Error is an answer other than success.
type Error struct {
	// HTTPStatus is the code of HTTP.
	HTTPStatus int
	// Status is the error as the API says it; nil where the answer was none.
	Status *status.Status
	// Text is the answer itself where it is no google.rpc.Status.
	Text string
}

// Error says what the API said.
func (e *Error) Error() string {
	if e.Status != nil {
		return fmt.Sprintf("api: %d: %s", e.HTTPStatus, e.Status.GetMessage())
	}
	return fmt.Sprintf("api: %d: %s", e.HTTPStatus, strings.TrimSpace(e.Text))
}

// Get asks a path with a query and reads the answer into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out proto.Message) error {
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

// Post sends in to a path and reads the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out proto.Message) error {
	return c.do(ctx, http.MethodPost, path, nil, in, out)
}

// Patch changes what a path names.
func (c *Client) Patch(ctx context.Context, path string, query url.Values, in, out proto.Message) error {
	return c.do(ctx, http.MethodPatch, path, query, in, out)
}

// Delete removes what a path names.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.do(ctx, http.MethodDelete, path, nil, nil, nil)
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out proto.Message) error {
	response, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("api: %s %s: %w", method, path, err)
	}
	if out == nil {
		return nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, out); err != nil {
		return fmt.Errorf("api: %s %s: %w", method, path, err)
	}
	return nil
}

// request sends a request; where it succeeds, the caller closes the body.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, in proto.Message) (*http.Response, error) {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := protojson.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("api: %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("api: %s %s: %w", method, path, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("api: %s %s: %w", method, path, err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("api: %s %s: %w", method, path, err)
	}
	return nil, failure(response.StatusCode, text)
}

func failure(httpStatus int, text []byte) *Error {
	e := &Error{HTTPStatus: httpStatus, Text: string(text)}
	said := &status.Status{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, said) == nil && said.GetCode() != 0 {
		e.Status = said
	}
	return e
}

// Live follows GET /v1/usage:live and tells each answer, until ctx or the stream
// ends. An end of the stream is an error: ask again.
func (c *Client) Live(ctx context.Context, query url.Values, tell func(*meteringv1.StreamLiveUsageResponse)) error {
	const path = "/v1/usage:live"
	response, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var envelope struct {
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(line, &envelope); err != nil {
			return fmt.Errorf("api: %s: %w", path, err)
		}
		if envelope.Error != nil {
			return fmt.Errorf("api: %s: %s", path, envelope.Error)
		}
		message := &meteringv1.StreamLiveUsageResponse{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(envelope.Result, message); err != nil {
			return fmt.Errorf("api: %s: %w", path, err)
		}
		tell(message)
	}
	return fmt.Errorf("api: %s: %w", path, errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// Applications are all applications of the account.
func (c *Client) Applications(ctx context.Context) ([]*meteringv1.Application, error) {
	var all []*meteringv1.Application
	query := url.Values{"page_size": {"1000"}}
	for {
		page := &meteringv1.ListApplicationsResponse{}
		if err := c.Get(ctx, "/v1/applications", query, page); err != nil {
			return nil, err
		}
		all = append(all, page.GetApplications()...)
		if page.GetNextPageToken() == "" {
			return all, nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

// CreateApplication starts metering an application.
func (c *Client) CreateApplication(ctx context.Context, application *meteringv1.Application) (*meteringv1.Application, error) {
	created := &meteringv1.Application{}
	if err := c.Post(ctx, "/v1/applications", application, created); err != nil {
		return nil, err
	}
	return created, nil
}
