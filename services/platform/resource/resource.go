package resource

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// NewID draws a random UUID.
func NewID() contract.ID {
	var id contract.ID
	_, _ = rand.Read(id[:]) // never fails, says its documentation
	return AsUUID(id, 4)
}

// DerivedID computes an id from what it must be the same for.
func DerivedID(account contract.ID, kind, name string) contract.ID {
	h := sha256.New()
	h.Write(account[:])
	h.Write([]byte(kind + "\x00" + name))
	return AsUUID(contract.ID(h.Sum(nil)[:16]), 8)
}

// AsUUID marks 16 bytes as a UUID of a version.
func AsUUID(id contract.ID, version byte) contract.ID {
	id[6] = id[6]&0x0f | version<<4
	id[8] = id[8]&0x3f | 0x80
	return id
}

// ParseID reads the id that a field of a request holds.
func ParseID(op, path, text string) (contract.ID, error) {
	id, err := contract.ParseID(text)
	if err != nil {
		return id, errs.InvalidFields(op, "", errs.Field{Path: path, Description: strconv.Quote(text) + " is not a UUID"})
	}
	return id, nil
}

// ParseIDs reads a list of them.
func ParseIDs(op, path string, texts []string) ([]contract.ID, error) {
	ids := make([]contract.ID, len(texts))
	for i, text := range texts {
		var err error
		if ids[i], err = ParseID(op, fmt.Sprintf("%s[%d]", path, i), text); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// MaskPaths are the fields that a mask names; all that may be changed where there
// is no mask or it says *. Fields of the platform's own are left out silently, so
// that what was read can be sent back.
func MaskPaths(op string, mask *fieldmaskpb.FieldMask, m proto.Message, own ...string) ([]string, error) {
	fields := m.ProtoReflect().Descriptor().Fields()
	var paths, known []string
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !slices.Contains(own, name) {
			known = append(known, name)
		}
	}
	if len(mask.GetPaths()) == 0 || slices.Equal(mask.GetPaths(), []string{"*"}) {
		return known, nil
	}
	for _, path := range mask.GetPaths() {
		wrong := ""
		switch {
		case slices.Contains(known, path), slices.Contains(own, path):
		case path == "":
			// What the gateway makes of an empty body.
			wrong = "the update names no field, so there is nothing to change"
		default:
			wrong = fmt.Sprintf("%q is no field that can be changed", path)
		}
		if wrong != "" {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "update_mask", Description: wrong + "; give one or more of " + strings.Join(known, ", ")})
		}
		if !slices.Contains(own, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// PageSize is how many a page holds where a request asks for so many.
func PageSize(asked int32, standard int) int {
	if asked <= 0 {
		return standard
	}
	return int(asked)
}

// Mark is a place in a list that goes by time and then by id.
type Mark struct {
	At time.Time
	ID contract.ID
}

// Token is the page token behind a place, bound to the question that the list answers.
func Token(question string, mark Mark) string {
	digest := sha256.Sum256([]byte(question))
	b := binary.BigEndian.AppendUint64(slices.Clone(digest[:8]), uint64(mark.At.UnixMicro()))
	return base64.RawURLEncoding.EncodeToString(append(b, mark.ID[:]...))
}

// ReadToken reads the place behind which a page begins; the first page begins before all.
func ReadToken(op, question, token string) (Mark, error) {
	if token == "" {
		return Mark{At: time.UnixMicro(0)}, nil
	}
	wrong := func(description string) (Mark, error) {
		return Mark{}, errs.InvalidFields(op, "", errs.Field{Path: "page_token", Description: description})
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+8+16 {
		return wrong("is no page token: send next_page_token of the answer before as it is, or none for the first page")
	}
	if digest := sha256.Sum256([]byte(question)); [8]byte(b) != [8]byte(digest[:8]) {
		return wrong("belongs to another question: take it from the answer before, and change nothing else but the page size")
	}
	return Mark{At: time.UnixMicro(int64(binary.BigEndian.Uint64(b[8:]))), ID: contract.ID(b[16:])}, nil
}

// Paged is a request for a page of a list.
type Paged interface {
	GetPageSize() int32
	GetPageToken() string
}

// Page is a page of a list that goes by time and then by id, in either direction, and the token of the next. read
// reads at most so many from behind a mark on, which for the first page is before all; at tells the place of one.
func Page[T any](op, question string, req Paged, read func(behind Mark, most int) ([]T, error), at func(T) (time.Time, string)) (page []T, next string, err error) {
	behind, err := ReadToken(op, question, req.GetPageToken())
	if err != nil {
		return nil, "", err
	}
	size := PageSize(req.GetPageSize(), 100)
	page, err = read(behind, size+1)
	if err != nil || len(page) <= size {
		return page, "", errs.Wrap(op, "", err)
	}
	page = page[:size]
	last, text := at(page[size-1])
	id, err := contract.ParseID(text)
	return page, Token(question, Mark{At: last, ID: id}), errs.Wrap(op, "", err)
}

// Request is a request that may be repeated.
type Request interface {
	proto.Message
	GetRequestId() string
}

// CommandOf names a request by its id and by what it asks for, so that repeating it
// does nothing twice and another request with its id is refused.
func CommandOf(actor, op string, req Request) (eventlog.Command, error) {
	command := eventlog.Command{ID: req.GetRequestId(), Actor: actor}
	if command.ID == "" {
		return command, nil
	}
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return command, errs.Wrap(op, "", err)
	}
	h := sha256.New()
	h.Write([]byte(op + "\x00"))
	h.Write(content)
	command.Digest = hex.EncodeToString(h.Sum(nil)[:16])
	return command, nil
}

// CommandError gives the log's errors the kind by which a caller can act.
func CommandError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, eventlog.ErrUnknownOutcome):
		return errs.As(errs.Unavailable, op, "", eventlog.ErrUnknownOutcome.Error(), err)
	case errors.Is(err, eventlog.ErrConflict):
		return errs.As(errs.Conflict, op, "", eventlog.ErrConflict.Error(), err)
	}
	return errs.Wrap(op, "", err)
}
