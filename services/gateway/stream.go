package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// writeTimeout is how long a reader of a stream may take to accept one message.
const writeTimeout = 30 * time.Second

const (
	mediaLines  = "application/x-ndjson"
	mediaEvents = "text/event-stream"
)

// stream answers a server-streaming method: by default one line of JSON a
// message, {"result": …}, and {"error": Status} where the stream breaks; as
// server-sent events, each with such a line as its data, where the client accepts
// text/event-stream. An error before the first message is an ordinary error. A document that
// comes in parts is sent as the file that it is; where it breaks, so does the connection, since
// half a file must not look like a whole one.
func (s *Service) stream(op *operation, conn grpc.ClientConnInterface) runtime.HandlerFunc {
	fullMethod := "/" + string(op.method.Parent().FullName()) + "/" + string(op.method.Name())
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		req, err := op.request(r.URL.Query(), path)
		if err != nil {
			writeError(w, 0, err)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		messages, broken := receive(ctx, r, conn, fullMethod, op, req)
		end := func() {
			cancel()
			s.deps.Logger.DebugContext(ctx, "stream ended", "method", op.id, "error", <-broken)
		}

		out := newStreamWriter(w, r, s.cfg.Heartbeat)
		out.documents = sendsDocuments(op)
		defer out.stop()
		for {
			select {
			case m := <-messages:
				if err := out.message(m); err != nil {
					end()
					out.fail(err)
					return
				}
			case err := <-broken:
				// What came before the end is still to be sent.
				for drained := false; !drained; {
					select {
					case m := <-messages:
						if out.message(m) != nil {
							return
						}
					default:
						drained = true
					}
				}
				if !errors.Is(err, io.EOF) {
					out.fail(err)
				} else {
					out.begin()
				}
				return
			case <-out.beat.C:
				if err := out.heartbeat(); err != nil {
					end()
					return
				}
			case <-s.stopping:
				end()
				out.fail(errs.New(errs.Unavailable, "gateway.stream", "", "the platform is stopping: connect again in a moment"))
				return
			}
		}
	}
}

// sendsDocuments tells whether a streaming method sends parts of documents.
func sendsDocuments(op *operation) bool {
	output, err := protoregistry.GlobalTypes.FindMessageByName(op.method.Output().FullName())
	if err != nil {
		return false
	}
	_, ok := output.Zero().Interface().(part)
	return ok
}

// request fills the method's request from query and path, which were checked.
func (op *operation) request(query url.Values, path map[string]string) (proto.Message, error) {
	req := op.input.New().Interface()
	if err := runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray(nil)); err != nil {
		return nil, errs.As(errs.Invalid, "gateway.request", "", err.Error(), err)
	}
	for name, value := range path {
		if err := runtime.PopulateFieldFromPath(req, name, value); err != nil {
			return nil, errs.As(errs.Invalid, "gateway.request", name, err.Error(), err)
		}
	}
	return req, nil
}

// receive calls the method and hands its messages on, until broken gets the one
// error that ended it, io.EOF for a good end. It ends when ctx does.
func receive(ctx context.Context, r *http.Request, conn grpc.ClientConnInterface, fullMethod string, op *operation, req proto.Message) (<-chan proto.Message, <-chan error) {
	messages, broken := make(chan proto.Message, 1), make(chan error, 1)
	go func() {
		broken <- func() error {
			output, err := protoregistry.GlobalTypes.FindMessageByName(op.method.Output().FullName())
			if err != nil {
				return err
			}
			ctx := withCredentials(ctx, r)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fullMethod)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if err := stream.CloseSend(); err != nil {
				return err
			}
			for {
				m := output.New().Interface()
				if err := stream.RecvMsg(m); err != nil {
					return err
				}
				select {
				case messages <- m:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}()
	}()
	return messages, broken
}

// streamWriter writes one answer that never ends.
type streamWriter struct {
	w      http.ResponseWriter
	ctl    *http.ResponseController
	events bool
	begun  bool
	// documents says that the method sends parts of documents; file, that one has begun.
	documents, file bool
	every           time.Duration
	beat            *time.Ticker
}

func newStreamWriter(w http.ResponseWriter, r *http.Request, heartbeat time.Duration) *streamWriter {
	return &streamWriter{
		w: w, ctl: http.NewResponseController(w), every: heartbeat, beat: time.NewTicker(heartbeat),
		events: strings.Contains(r.Header.Get("Accept"), mediaEvents),
	}
}

// stop lets the connection serve other requests again.
func (o *streamWriter) stop() {
	o.beat.Stop()
	_ = o.ctl.SetWriteDeadline(time.Time{}) // a broken connection has no use for it
}

func (o *streamWriter) begin() {
	if o.begun {
		return
	}
	o.begun = true
	media := mediaLines
	if o.events {
		media = mediaEvents
	}
	o.w.Header().Set("Content-Type", media)
	o.w.Header().Set("X-Accel-Buffering", "no") // proxies would hold events back
	o.w.WriteHeader(http.StatusOK)
}

func (o *streamWriter) message(m proto.Message) error {
	if p, ok := m.(part); ok {
		return o.part(p)
	}
	text, err := marshaling.Marshal(m)
	if err != nil {
		return err
	}
	return o.line("result", text)
}

// part sends a part of a document.
func (o *streamWriter) part(p part) error {
	if !o.begun {
		o.begun, o.file = true, true
		o.w.Header().Set("Content-Type", p.GetContentType())
		o.w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": p.GetFileName()}))
		o.w.WriteHeader(http.StatusOK)
	}
	return o.send(p.GetContent())
}

func (o *streamWriter) fail(err error) {
	if !o.begun {
		writeError(o.w, 0, err)
		return
	}
	if o.file {
		panic(http.ErrAbortHandler) // the only way to break an answer off
	}
	if text, err := marshaling.Marshal(publicStatus(err).Proto()); err == nil {
		_ = o.line("error", text) // the reader is gone where this fails
	}
}

func (o *streamWriter) line(name string, value []byte) error {
	line, err := json.Marshal(map[string]json.RawMessage{name: value}) // compact: no line break inside
	if err != nil {
		return err
	}
	o.begin()
	o.beat.Reset(o.every)
	if o.events {
		line = append([]byte("data: "), line...)
		line = append(line, '\n')
	}
	return o.send(append(line, '\n'))
}

// heartbeat keeps the connection of server-sent events alive with a comment; a
// line of JSON has none, so there is nothing to send.
func (o *streamWriter) heartbeat() error {
	if o.documents {
		return nil // nothing may stand between its parts
	}
	o.begin()
	if !o.events {
		return o.send(nil)
	}
	return o.send([]byte(": still here\n\n"))
}

func (o *streamWriter) send(b []byte) error {
	if err := o.ctl.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	return o.ctl.Flush()
}
