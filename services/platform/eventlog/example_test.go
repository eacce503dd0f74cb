package eventlog_test

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// A jar holds cookies; each event says how many were put in (or, below zero,
// taken out).
func ExampleRepository() {
	jars := eventlog.Repository[int64]{
		Log:      eventlog.NewMemory(), // eventlog.NewJetStream(nc, contract.EventStream) where it counts
		Registry: eventlog.NewRegistry(eventlog.Current[*wrapperspb.Int64Value]("cetrus.kitchen.jar.changed.v1")),
		New:      func() int64 { return 0 },
		Apply: func(cookies int64, event proto.Message) (int64, error) {
			return cookies + event.(*wrapperspb.Int64Value).GetValue(), nil
		},
	}
	errEmpty := errors.New("the jar does not hold that many")
	put := func(n int64) func(int64) ([]proto.Message, error) {
		return func(cookies int64) ([]proto.Message, error) {
			if cookies+n < 0 {
				return nil, errEmpty
			}
			return []proto.Message{wrapperspb.Int64(n)}, nil
		}
	}

	ctx := context.Background()
	jar := contract.EventSubject(contract.ID{1}, "kitchen", "jar", "blue")
	for _, step := range []struct {
		request string
		put     int64
	}{{"r1", 3}, {"r2", -1}, {"r2", -1}, {"r3", -5}} {
		result, err := jars.Execute(ctx, jar, eventlog.Command{ID: step.request, Actor: "ada"}, put(step.put))
		fmt.Println(step.request, result.State, "at", result.Position, "repeated:", result.Repeated, err)
	}
	// Output:
	// r1 3 at 1 repeated: false <nil>
	// r2 2 at 2 repeated: false <nil>
	// r2 2 at 2 repeated: true <nil>
	// r3 2 at 2 repeated: false the jar does not hold that many
}
