package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3 keeps objects in a bucket. It relies on two things that S3 promises: an object that was
// written is read by everybody at once, and of several who write one with "If-None-Match: *" one
// succeeds.
type s3 struct {
	client         *minio.Client
	bucket, prefix string
	where          string
}

func newS3(u *url.URL, keysPrefix string) (*s3, error) {
	query := u.Query()
	for name := range query {
		if name != "endpoint" && name != "region" {
			return nil, fmt.Errorf("has %q, and only endpoint and region are known", name)
		}
	}
	if u.Host == "" {
		return nil, errors.New("must name a bucket, as s3://bucket/prefix")
	}
	endpoint := query.Get("endpoint")
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	at, err := url.Parse(endpoint)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || strings.Trim(at.Path, "/") != "" {
		return nil, fmt.Errorf("has the endpoint %q, which must be as https://s3.example.com", endpoint)
	}
	own := &credentials.Static{Value: credentials.Value{
		AccessKeyID: os.Getenv(keysPrefix + "AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv(keysPrefix + "AWS_SECRET_ACCESS_KEY"),
		SessionToken: os.Getenv(keysPrefix + "AWS_SESSION_TOKEN"),
	}}
	transport, err := moving(at.Scheme == "https", stillFor)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(at.Host, &minio.Options{
		Secure: at.Scheme == "https", Region: query.Get("region"), Transport: transport,
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			own, &credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Transport: http.DefaultTransport}},
		}),
	})
	if err != nil {
		return nil, err
	}
	prefix := strings.Trim(u.Path, "/")
	where := "s3://" + u.Host + "/" + prefix
	if prefix != "" {
		prefix += "/"
	}
	return &s3{client: client, bucket: u.Host, prefix: prefix, where: where}, nil
}

// stillFor is how long a store may neither send nor take a byte. How long an object takes is not bounded: it may be large, and
// the line slow.
const stillFor = 2 * time.Minute

// moving is a transport that gives up connections on which nothing moves.
func moving(secure bool, within time.Duration) (*http.Transport, error) {
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &movingConn{Conn: conn, within: within}, nil
	}
	return transport, nil
}

// movingConn has both directions fail once neither has moved for so long: while a request is sent its answer is waited for.
type movingConn struct {
	net.Conn

	within time.Duration
}

func (c *movingConn) Read(into []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.within)); err != nil {
		return 0, err
	}
	return c.Conn.Read(into)
}

func (c *movingConn) Write(from []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.within)); err != nil {
		return 0, err
	}
	return c.Conn.Write(from)
}

func (s *s3) Where() string { return s.where }

func (s *s3) Create(ctx context.Context, name string, content []byte) error {
	options := minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true}
	options.SetMatchETagExcept("*")
	_, err := s.client.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(content), int64(len(content)), options)
	if status := minio.ToErrorResponse(err).StatusCode; status == http.StatusPreconditionFailed || status == http.StatusConflict {
		return ErrExists
	}
	if err != nil {
		return fmt.Errorf("archive: write %s to %s: %w", name, s.where, err)
	}
	return nil
}

func (s *s3) Load(ctx context.Context, name string) ([]byte, error) {
	object, err := s.client.GetObject(ctx, s.bucket, s.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, fmt.Errorf("archive: read %s from %s: %w", name, s.where, err)
	}
	defer func() { _ = object.Close() }()
	content, err := io.ReadAll(object)
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil, fmt.Errorf("%w: %s", ErrNone, name)
	}
	if err != nil {
		return nil, fmt.Errorf("archive: read %s from %s: %w", name, s.where, err)
	}
	return content, nil
}

func (s *s3) List(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for object := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if object.Err != nil {
			return nil, fmt.Errorf("archive: list %s: %w", s.where, object.Err)
		}
		names = append(names, strings.TrimPrefix(object.Key, s.prefix))
	}
	slices.Sort(names)
	return names, nil
}

func (s *s3) Folders(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for object := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix}) {
		if object.Err != nil {
			return nil, fmt.Errorf("archive: list %s: %w", s.where, object.Err)
		}
		if name, isFolder := strings.CutSuffix(strings.TrimPrefix(object.Key, s.prefix+prefix), "/"); isFolder && name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *s3) Has(ctx context.Context, name string) (bool, error) {
	_, err := s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("archive: look for %s in %s: %w", name, s.where, err)
	}
	return true, nil
}
