package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/services/platform/errs"
)

func Example() {
	load := func(id string) error {
		return errs.New(errs.NotFound, "metering.Application", "application "+id, "is not there: it was deleted, or never made")
	}
	err := errs.Wrap("metering.UpdateApplication", "", load("7"))

	fmt.Println(err)
	fmt.Println(errs.KindOf(err))
	fmt.Println(errs.PublicOf(err).Message)
	// Output:
	// metering.UpdateApplication: metering.Application: application 7: not found: is not there: it was deleted, or never made
	// not found
	// is not there: it was deleted, or never made
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want errs.Kind
	}{
		{"foreign", io.ErrUnexpectedEOF, errs.Internal},
		{"wrapped foreign", errs.Wrap("a", "b", io.EOF), errs.Internal},
		{"given", errs.As(errs.Unavailable, "a", "", "later", io.EOF), errs.Unavailable},
		{"through fmt", fmt.Errorf("x: %w", errs.New(errs.Conflict, "a", "", "")), errs.Conflict},
		{"canceled", fmt.Errorf("x: %w", context.Canceled), errs.Canceled},
		{"deadline", errs.Wrap("a", "", context.DeadlineExceeded), errs.DeadlineExceeded},
		{"outermost wins", errs.As(errs.Internal, "a", "", "", errs.New(errs.NotFound, "b", "", "")), errs.Internal},
	} {
		if got := errs.KindOf(c.err); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	if errs.Wrap("a", "b", nil) != nil || errs.As(errs.Invalid, "a", "b", "c", nil) != nil || errs.Is(errs.Internal, nil) {
		t.Error("nil is no error")
	}
}

func TestInternalCausesAreNotShown(t *testing.T) {
	err := errs.Wrap("api.Get", "application 7", errs.Wrap("db", "", errors.New("password=hunter2 at 10.0.0.1")))
	p := errs.PublicOf(err)
	if s := fmt.Sprint(p); strings.Contains(s, "hunter2") || strings.Contains(s, "application 7") {
		t.Errorf("shown: %s", s)
	}
	if !strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the log has lost the cause: %s", err)
	}
}

// A chain of wraps keeps the kind and what the innermost said, however deep, and
// what wraps an error never hides it from errors.Is.
func TestWrappingKeepsKindAndCause(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := errs.Kind(rapid.IntRange(1, int(errs.Unimplemented)).Draw(t, "kind"))
		cause := errs.New(kind, "op", "subject", "message").WithReason("REASON")
		var err error = cause
		for range rapid.IntRange(0, 6).Draw(t, "depth") {
			err = errs.Wrap("outer", rapid.SampledFrom([]string{"", "thing"}).Draw(t, "subject"), err)
		}
		p := errs.PublicOf(err)
		if p.Kind != kind || p.Reason != "REASON" || p.Message != "message" || !errors.Is(err, cause) {
			t.Fatalf("got %+v", p)
		}
		if strings.Count(err.Error(), kind.String()) != 1 {
			t.Fatalf("the kind is not told once: %s", err)
		}
	})
}
