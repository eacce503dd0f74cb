package ingest_test

import (
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
)

// A machine is put back to a snapshot while its Manager goes on: its agent writes other
// records under numbers that were acknowledged, and the ends of some are forgotten.
func TestARestoredAgentIsToldToBeginANewEpoch(t *testing.T) {
	for _, kept := range []int{0, 10, 30, 55, 60} {
		r := start(t, testConfig{})
		j := journal(1)
		c := connect(t, r, j)
		snapshot := *j
		for i := range 60 {
			if i == kept {
				snapshot = *j
			}
			f := j.Frame(1)
			must(t, c.SendFrame(f))
			acknowledged(t, c, f)
		}
		if kept == 60 {
			snapshot = *j
		}
		f := snapshot.Frame(3)
		must(t, c.SendFrame(f))
		if kept == 60 {
			acknowledged(t, c, f)
			continue
		}
		refusal, err := c.Refused()
		must(t, err)
		if refusal.GetReason() != contract.ReasonConflict || !refusal.GetNewEpoch() || refusal.GetFirstSeq() != uint64(kept+1) {
			t.Fatalf("put back to %d records: %v", kept, refusal)
		}
		snapshot.NewEpoch()
		f = snapshot.Frame(3)
		must(t, c.SendFrame(f))
		acknowledged(t, c, f)
	}
}

// What was durable and not acknowledged comes again in other frames, with more behind it.
func TestRecordsThatComeAgainInOtherFramesAreTaken(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	whole := j.Frame(0)
	for range 40 {
		f := j.Frame(2)
		must(t, c.SendFrame(f))
		acknowledged(t, c, f)
		whole.Records = append(whole.Records, f.GetRecords()...)
	}
	for range 3 {
		f := j.Frame(1)
		whole.Records = append(whole.Records, f.GetRecords()...)
		whole.ChainAfter = f.GetChainAfter()
	}
	must(t, c.SendFrame(whole))
	acknowledged(t, c, whole)
	if n := r.server.Counts().Refused; n != 0 {
		t.Errorf("%d refusals", n)
	}
}

// A Manager that was started anew remembers nothing; the log's reader does.
func TestAnEpochThatThePlatformFoundTwoContentsInIsRefused(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	f := j.Frame(2)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	r.server.RefuseEpoch(contract.ID{99}, j.Epoch)
	r.server.RefuseEpoch(j.Agent, j.Epoch+1)
	f = j.Frame(2)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	r.server.RefuseEpoch(j.Agent, j.Epoch)
	must(t, c.SendFrame(j.Frame(2)))
	refusal, err := c.Refused()
	must(t, err)
	if refusal.GetReason() != contract.ReasonConflict || !refusal.GetNewEpoch() || refusal.GetEpoch() != j.Epoch {
		t.Fatalf("refusal: %v", refusal)
	}
	j.NewEpoch()
	f = j.Frame(2)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
}
