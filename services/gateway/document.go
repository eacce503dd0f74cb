package gateway

import (
	"context"
	"mime"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
)

// document is an answer that is a file of its own kind: what it holds is sent as it is.
type document interface {
	GetFileName() string
	GetContentType() string
	GetContent() string
}

// part is a part of a document that a stream sends: the first says what it is.
type part interface {
	GetFileName() string
	GetContentType() string
	GetContent() []byte
}

// documents writes answers that are documents as these, and all others as JSON.
type documents struct{ runtime.Marshaler }

// ContentType implements runtime.Marshaler.
func (m documents) ContentType(v any) string {
	if d, ok := v.(document); ok {
		return d.GetContentType()
	}
	return m.Marshaler.ContentType(v)
}

// Marshal implements runtime.Marshaler.
func (m documents) Marshal(v any) ([]byte, error) {
	if d, ok := v.(document); ok {
		return []byte(d.GetContent()), nil
	}
	return m.Marshaler.Marshal(v)
}

// nameDocument has a browser keep a document under its name, and says where it is not all.
func nameDocument(_ context.Context, w http.ResponseWriter, answer proto.Message) error {
	d, ok := answer.(document)
	if !ok {
		return nil
	}
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": d.GetFileName()}))
	if t, ok := answer.(interface{ GetTruncated() bool }); ok && t.GetTruncated() {
		w.Header().Set("Cetrus-Truncated", "true")
	}
	return nil
}
