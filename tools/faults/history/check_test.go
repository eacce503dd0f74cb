package history_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/tools/faults/history"
)

const lane = "LANE_USAGE"

// record is number seq of agent a's epoch 1, which closes an interval of an instance.
func record(seq uint64, instance string, millis int64) history.Record {
	name := string(rune('a' + seq))
	return history.Record{Agent: "a", Epoch: 1, Seq: seq, Event: "event " + name, Digest: "digest " + name, Instance: instance, Attention: "BUSY", Millis: millis}
}

func journalled(r history.Record) history.Fact { return history.Fact{Journalled: &r} }

func acknowledged(first, last uint64) history.Fact {
	return history.Fact{Acknowledged: &history.Span{Agent: "a", Epoch: 1, Lane: lane, First: first, Last: last}}
}

// published is the message of a position, with records.
func published(at, buffered uint64, records ...history.Record) history.Fact {
	m := history.Message{Position: at, Subject: "agent.usage", Buffer: "buffer", BufferPosition: buffered}
	var digest strings.Builder
	for _, r := range records {
		m.Records = append(m.Records, r)
		m.Spans = append(m.Spans, history.Span{Agent: r.Agent, Epoch: r.Epoch, Lane: lane, First: r.Seq, Last: r.Seq})
		digest.WriteString(r.Digest)
	}
	m.Digest = digest.String()
	return history.Fact{Published: &m}
}

func counted(instance string, closed bool, millis int64) history.Fact {
	return history.Fact{Counted: &history.Counted{Instance: instance, Closed: closed, Millis: map[string]int64{"BUSY": millis}}}
}

// right is a history of two records of one instance, where nothing is wrong: they come twice, and are
// counted once.
func right() []history.Fact {
	one, two := record(1, "i", 1000), record(2, "i", 500)
	return []history.Fact{
		journalled(one), journalled(two), journalled(two), acknowledged(1, 2),
		published(1, 1, one), counted("i", false, 1000), published(2, 2, two), published(3, 1, one), published(4, 2, two),
		counted("i", true, 1500),
	}
}

func judge(facts []history.Fact) history.Verdict {
	c := history.NewChecker()
	for _, f := range facts {
		c.Add(f)
	}
	return c.Verdict()
}

func TestARightHistoryIsClean(t *testing.T) {
	v := judge(right())
	if !v.Clean() || len(v.Findings) > 0 {
		t.Fatalf("%+v", v)
	}
	if v.Journalled != 2 || v.Acknowledged != 2 || v.Published != 4 || v.Observed != 2 || v.Keys != 1 {
		t.Errorf("not all of it was seen: %+v", v)
	}
}

func TestWrongHistoriesAreFound(t *testing.T) {
	one, two, three := record(1, "i", 1000), record(2, "i", 500), record(3, "j", 70)
	other := one
	other.Digest, other.Millis = "another", 2000
	renumbered := two
	renumbered.Epoch, renumbered.Seq = 2, 1
	moved := three
	moved.Seq = 1
	for name, c := range map[string]struct {
		facts func(right []history.Fact) []history.Fact
		want  history.Verdict
	}{
		"a journalled record is not in the log": {
			func(h []history.Fact) []history.Fact { return append(h, journalled(three), counted("j", true, 70)) },
			history.Verdict{Lost: 1},
		},
		"an acknowledged number is not in the log": {
			func(h []history.Fact) []history.Fact { return append(h, acknowledged(2, 4)) },
			history.Verdict{Lost: 1},
		},
		"it is in the log, and not counted": {
			func(h []history.Fact) []history.Fact {
				return append(h, journalled(three), published(5, 3, three))
			},
			history.Verdict{LostMillis: 70},
		},
		"a millisecond is missing": {
			func(h []history.Fact) []history.Fact { return append(h[:len(h)-1], counted("i", true, 1499)) },
			history.Verdict{LostMillis: 1},
		},
		"a repeated record is counted twice": {
			func(h []history.Fact) []history.Fact { return append(h[:len(h)-1], counted("i", true, 2500)) },
			history.Verdict{DoubledMillis: 1000},
		},
		"what is lost of one is too much of another": {
			func(h []history.Fact) []history.Fact {
				return append(h[:len(h)-1], counted("i", true, 1400), counted("k", true, 100))
			},
			history.Verdict{LostMillis: 100, DoubledMillis: 100},
		},
		"an event has two contents in the log": {
			func(h []history.Fact) []history.Fact {
				again := renumbered
				again.Digest = "another"
				return append(h, published(5, 3, again))
			},
			history.Verdict{Doubled: 2}, // there, and against what was journalled
		},
		"an event is journalled with two contents": {
			func(h []history.Fact) []history.Fact { return append(h, journalled(other)) },
			history.Verdict{Doubled: 1},
		},
		"messages overtake one another": {
			func(h []history.Fact) []history.Fact {
				four := record(4, "i", 0)
				return append(h, journalled(three), journalled(four), published(5, 4, four), published(6, 3, three), counted("j", true, 70))
			},
			history.Verdict{Reordered: 1},
		},
		"a closed instance is open again": {
			func(h []history.Fact) []history.Fact { return append(h, counted("i", false, 1500)) },
			history.Verdict{Resurrected: 1},
		},
		"time that was counted is not, for a moment": {
			func(h []history.Fact) []history.Fact {
				return append(h, counted("i", true, 1000), counted("i", true, 1500))
			},
			history.Verdict{Resurrected: 1},
		},
		"a number is used for another record": {
			func(h []history.Fact) []history.Fact {
				return append(h, journalled(moved), published(5, 3, moved), counted("j", true, 70))
			},
			history.Verdict{Resurrected: 1},
		},
		"a position is used for another message": {
			func(h []history.Fact) []history.Fact {
				return append(h, journalled(three), published(5, 2, three), counted("j", true, 70))
			},
			history.Verdict{Resurrected: 1},
		},
		"what nobody journalled is in the log": {
			func(h []history.Fact) []history.Fact {
				return append(h, published(5, 3, three))
			},
			history.Verdict{Resurrected: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(c.facts(right()))
			if len(v.Findings) == 0 || v.Clean() {
				t.Fatalf("nothing is found: %+v", v)
			}
			got := history.Verdict{Lost: v.Lost, Doubled: v.Doubled, Reordered: v.Reordered, Resurrected: v.Resurrected, LostMillis: v.LostMillis, DoubledMillis: v.DoubledMillis}
			if got.Lost != c.want.Lost || got.Doubled != c.want.Doubled || got.Reordered != c.want.Reordered || got.Resurrected != c.want.Resurrected ||
				got.LostMillis != c.want.LostMillis || got.DoubledMillis != c.want.DoubledMillis {
				t.Errorf("found %+v; want %+v: %q", got, c.want, v.Findings)
			}
		})
	}
}

// TestAnEventMayComeAgainInANewEpoch, which is what an agent does whose numbers are in doubt.
func TestAnEventMayComeAgainInANewEpoch(t *testing.T) {
	again := record(2, "i", 500)
	again.Epoch, again.Seq = 2, 1
	if v := judge(append(right(), journalled(again), published(5, 3, again))); !v.Clean() {
		t.Errorf("%+v", v)
	}
}

func TestAHistoryIsKeptAndReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	file, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range right() {
		file.Tell(f)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := history.Check(path)
	if err != nil || !v.Clean() || v.Journalled != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := history.Create(path); err == nil {
		t.Error("a history is written over")
	}
}
