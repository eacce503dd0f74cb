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
	"google.golang.org/protobuf/reflect/protoreflect"
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
	if isPart(s.binding.method.Output()) {
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
	if part := out.ProtoReflect(); isPart(part.Descriptor()) {
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

// The fields of a part of a document, which the gateway sends as it is.
const fileName, contentType, content protoreflect.Name = "file_name", "content_type", "content"

// isPart tells whether messages are parts of a document: as for the gateway, by what they hold.
func isPart(m protoreflect.MessageDescriptor) bool {
	fields := m.Fields()
	holds := fields.ByName(content)
	return holds != nil && holds.Kind() == protoreflect.BytesKind && fields.ByName(fileName) != nil && fields.ByName(contentType) != nil
}

// part reads the next piece of a document. One that was cut off does not end well.
func (s *stream) part(into protoreflect.Message) error {
	piece := make([]byte, partBytes)
	n, err := io.ReadFull(s.response.Body, piece)
	proto.Reset(into.Interface())
	set := func(name protoreflect.Name, value protoreflect.Value) {
		into.Set(into.Descriptor().Fields().ByName(name), value)
	}
	if !s.begun {
		s.begun = true
		set(contentType, protoreflect.ValueOfString(s.response.Header.Get("Content-Type")))
		if _, params, err := mime.ParseMediaType(s.response.Header.Get("Content-Disposition")); err == nil {
			set(fileName, protoreflect.ValueOfString(params["filename"]))
		}
		if errors.Is(err, io.EOF) {
			return nil // an empty document is one
		}
	}
	set(content, protoreflect.ValueOfBytes(piece[:n]))
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
