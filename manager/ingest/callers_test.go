package ingest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/proto/contract"
)

// proven is the agent that calls, until the test ends that.
type proven struct {
	id  contract.ID
	mu  sync.Mutex
	why error
}

// Caller implements ingest.Callers.
func (p *proven) Caller(context.Context) (contract.ID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id, p.why
}

func (p *proven) end(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = why
}

// A connection ends with the right to it. An agent that was revoked is refused; one whose
// certificate has expired meanwhile comes back with another, and nobody is alarmed.
func TestConnectionsEndWithTheRightToThem(t *testing.T) {
	t.Parallel()
	for code, refusals := range map[codes.Code]uint64{codes.PermissionDenied: 1, codes.Unauthenticated: 0} {
		hello := helloOf(1, "ws")
		callers := &proven{id: contract.ID(hello.GetAgentId())}
		r := start(t, testConfig{callers: callers})
		agent := converse(t, r.address, hello)
		callers.end(status.Error(code, "the right has ended"))
		late, heard := time.After(patience), uint64(0)
		for over := false; !over; {
			select {
			case m, open := <-agent.heard:
				over = !open
				if m.GetRefusal().GetReason() == contract.ReasonNoCertificate {
					heard++
				}
			case <-late:
				t.Fatalf("%v: the connection goes on", code)
			}
		}
		if known := r.server.Agents(); heard != refusals || len(known) != 1 || known[0].Refused != refusals {
			t.Errorf("%v: it heard %d refusals; known are %+v", code, heard, known)
		}
	}
}
