package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	mediaLines = "application/x-ndjson"
	// maxLine bounds one message of a stream.
	maxLine = 64 << 20
	// partBytes is how much of a file comes in one message.
	partBytes = 64 << 10
)

// NewStream calls a method that answers with a stream. Nothing is sent before the question is told.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	b, err := callOf(method)
	if err != nil {
		return nil, err
	}
	if desc.ClientStreams {
		return nil, status.Errorf(codes.Unimplemented, "%s takes a stream, which REST does not", method)
	}
	return &stream{ctx: ctx, conn: c, binding: b}, nil
}

// stream is an answer that comes in parts. It ends with its context.
type stream struct {
	ctx      context.Context
	conn     *Conn
	binding  *call
	response *http.Response
	lines    *bufio.Scanner
	// begun says that the first part of a document was told.
	begun bool
}

// Header, Trailer: REST has none for us.
func (s *stream) Header() (metadata.MD, error) { return metadata.MD{}, nil }

// Trailer is none.
func (s *stream) Trailer() metadata.MD { return nil }

// CloseSend has nothing to do: a question is one message.
func (s *stream) CloseSend() error { return nil }

// Context is the stream's own.
func (s *stream) Context() context.Context { return s.ctx }

// SendMsg asks.
func (s *stream) SendMsg(m any) error {
	accept := mediaLines
	if s.binding.method.Output().FullName() == (&meteringv1.ExportReportResponse{}).ProtoReflect().Descriptor().FullName() {
		accept = "*/*"
	}
	var err error
	//nolint:bodyclose // it is read by RecvMsg, and closed with the context at the latest
	if s.response, err = s.conn.call(s.ctx, s.binding, m.(proto.Message), accept); err != nil {
		return err
	}
	// Whoever gives the stream up cancels its context, as with every gRPC client.
	context.AfterFunc(s.ctx, func() { _ = s.response.Body.Close() })
	s.lines = bufio.NewScanner(s.response.Body)
	s.lines.Buffer(nil, maxLine)
	return nil
}

// RecvMsg reads the next message; io.EOF at a good end.
func (s *stream) RecvMsg(m any) error {
	out := m.(proto.Message)
	if part, ok := out.(*meteringv1.ExportReportResponse); ok {
		return s.part(part)
	}
	for s.lines.Scan() {
		line := bytes.TrimSpace(s.lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var envelope struct {
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(line, &envelope); err != nil {
			return s.broken(fmt.Errorf("a line of the answer is no JSON: %w", err))
		}
		read := protojson.UnmarshalOptions{DiscardUnknown: true}
		if envelope.Error != nil {
			said := &spb.Status{}
			if err := read.Unmarshal(envelope.Error, said); err != nil {
				return s.broken(err)
			}
			_ = s.response.Body.Close()
			return status.FromProto(said).Err()
		}
		if err := read.Unmarshal(envelope.Result, out); err != nil {
			return s.broken(err)
		}
		return nil
	}
	if err := s.lines.Err(); err != nil {
		return s.broken(err)
	}
	_ = s.response.Body.Close()
	return io.EOF
}

// part reads the next piece of a document. One that was cut off does not end well.
func (s *stream) part(into *meteringv1.ExportReportResponse) error {
	content := make([]byte, partBytes)
	n, err := io.ReadFull(s.response.Body, content)
	proto.Reset(into)
	if !s.begun {
		s.begun = true
		into.ContentType = s.response.Header.Get("Content-Type")
		if _, params, err := mime.ParseMediaType(s.response.Header.Get("Content-Disposition")); err == nil {
			into.FileName = params["filename"]
		}
		if errors.Is(err, io.EOF) {
			return nil // an empty document is one
		}
	}
	into.Content = content[:n]
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF) && n > 0:
		// Less than was asked for. Whether that was the end, or a connection that broke, the
		// next reading says.
		return nil
	case errors.Is(err, io.EOF):
		_ = s.response.Body.Close()
		return io.EOF
	}
	return s.broken(err)
}

func (s *stream) broken(err error) error {
	_ = s.response.Body.Close()
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return &UnreachableError{s.conn.base.String(), err}
}
