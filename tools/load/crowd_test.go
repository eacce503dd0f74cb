package load

import (
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
)

// TestMemoryKeepsUntilAcknowledged: what is kept in memory is one chain without gaps however it is read
// and acknowledged, and nothing changes that was handed out.
func TestMemoryKeepsUntilAcknowledged(t *testing.T) {
	m := &memory{source: NewSource(smallCorpus(), SourceConfig{Number: 1, Seed: 7})}
	if err := m.recordMany(3); err != nil {
		t.Fatal(err)
	}
	first, err := m.Frame(1)
	if err != nil || len(first.GetRecords()) != 3 {
		t.Fatalf("%d records, %v", len(first.GetRecords()), err)
	}
	for range 2 { // behind one that was handed out, what comes next is one frame
		if err := m.recordMany(2); err != nil {
			t.Fatal(err)
		}
	}
	second, err := m.Frame(4)
	if err != nil || len(first.GetRecords()) != 3 || len(second.GetRecords()) != 4 || second.GetFirstSeq() != 4 {
		t.Fatalf("%d and %d records, from %d, %v", len(first.GetRecords()), len(second.GetRecords()), second.GetFirstSeq(), err)
	}
	chain := contract.Hash(first.GetChainAfter())
	if string(second.GetChainBefore()) != string(chain[:]) {
		t.Error("the second frame does not follow the first")
	}
	for _, record := range second.GetRecords() {
		chain = contract.Chain(chain, record)
	}
	if string(second.GetChainAfter()) != string(chain[:]) {
		t.Error("the second frame ends in another chain")
	}
	if again, _ := m.Frame(1); again != first {
		t.Error("what is not acknowledged is not given again")
	}
	if err := m.Acknowledge(m.Epoch()+1, 1, 3); err != nil {
		t.Fatal(err)
	}
	if made, acknowledged := m.counts(); made != 7 || acknowledged != 0 {
		t.Errorf("%d made, %d acknowledged by another epoch", made, acknowledged)
	}
	if err := m.Acknowledge(m.Epoch(), 1, 3); err != nil {
		t.Fatal(err)
	}
	if next, _ := m.Frame(1); next != second {
		t.Error("what is acknowledged is given again")
	}
	if made, acknowledged := m.counts(); made != 7 || acknowledged != 3 {
		t.Errorf("%d made, %d acknowledged", made, acknowledged)
	}
}

// TestTimeAtTheMachines: a machine records what is due by its clock and nothing else, be its time faster.
func TestTimeAtTheMachines(t *testing.T) {
	source := NewSource(smallCorpus(), SourceConfig{Number: 1, Seed: 7, StartUTCMillis: 1_000_000})
	m := &memory{source: source}
	due := source.NextUTCMillis()
	if n, next, err := m.record(due - 1); n != 0 || next != due || err != nil {
		t.Errorf("%d were recorded before the first was due; the next is due at %d, not %d; %v", n, next, due, err)
	}
	last := due
	for range 100 { // over the end of the corpus
		n, next, err := m.record(last)
		if n == 0 || next <= last || err != nil {
			t.Fatalf("at %d %d were recorded, and the next is due at %d; %v", last, n, next, err)
		}
		if source.UTCMillis() != last {
			t.Fatalf("what was due at %d is of %d", last, source.UTCMillis())
		}
		last = next
	}
}
