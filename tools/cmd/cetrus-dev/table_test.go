package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func live(id, application string, attention usagev1.Attention, state usagev1.State, since time.Time) *meteringv1.LiveInstance {
	return &meteringv1.LiveInstance{
		InstanceId: id, ApplicationName: application, Attention: attention, State: state,
		SinceTime: timestamppb.New(since), OpenTime: timestamppb.New(since.Add(-time.Hour)),
	}
}

func answer(complete bool, sessions ...*meteringv1.LiveSession) *meteringv1.StreamLiveUsageResponse {
	return &meteringv1.StreamLiveUsageResponse{Complete: complete, Sessions: sessions}
}

func TestBoardTellsWhatChanged(t *testing.T) {
	now := time.Now()
	ada := &meteringv1.LiveSession{SessionId: "s1", PrincipalName: "Ada", Instances: []*meteringv1.LiveInstance{
		live("i1", "Writer", usagev1.Attention_ATTENTION_BUSY, usagev1.State_STATE_ACTIVE, now),
	}}
	idle := &meteringv1.LiveSession{SessionId: "s1", PrincipalName: "Ada", Instances: []*meteringv1.LiveInstance{
		live("i1", "Writer", usagev1.Attention_ATTENTION_IDLE, usagev1.State_STATE_INACTIVE, now),
	}}
	b := newBoard()
	for i, step := range []struct {
		answer *meteringv1.StreamLiveUsageResponse
		want   int
		closed bool
	}{
		{answer(true, ada), 1, false},
		{answer(false, ada), 0, false},
		{answer(false, idle), 1, false},
		{answer(true, idle), 0, false},
		{&meteringv1.StreamLiveUsageResponse{EndedSessionIds: []string{"s1"}}, 1, true},
	} {
		changes := b.take(step.answer)
		if len(changes) != step.want || (step.want > 0 && changes[0].closed != step.closed) {
			t.Errorf("step %d: %d changes, want %d", i, len(changes), step.want)
		}
	}
	if len(b.rows(now)) != 0 {
		t.Error("an ended session has rows")
	}
}

// TestBusyNeverCountsASecondTwice: what is decided and what is still going on
// meet without overlap.
func TestBusyNeverCountsASecondTwice(t *testing.T) {
	now := time.Now()
	b := newBoard()
	instance := live("i1", "Writer", usagev1.Attention_ATTENTION_BUSY, usagev1.State_STATE_ACTIVE, now.Add(-20*time.Minute))
	b.setFinal([]*meteringv1.Instance{{
		InstanceId: "i1", DecidedTime: timestamppb.New(now.Add(-5 * time.Minute)),
		Totals: &meteringv1.UsageTotals{Busy: durationpb.New(15 * time.Minute)},
	}})
	b.setApplications([]*meteringv1.Application{{ActivityGap: durationpb.New(time.Minute)}})
	if got := b.busy(instance, now); got != 19*time.Minute {
		t.Errorf("busy %v, want 19m: the last minute is not certain", got)
	}
}

// TestBusyNeverFalls: whenever in the last gap the last input was, what the table shows
// before that is known is at most what it shows after.
func TestBusyNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gap := time.Duration(rapid.IntRange(30, 3600).Draw(t, "gap, s")) * time.Second
		typed := time.Duration(rapid.IntRange(0, 7200).Draw(t, "typed, s")) * time.Second
		since := time.Now()
		b := newBoard()
		b.setApplications([]*meteringv1.Application{{ActivityGap: durationpb.New(gap)}})
		busy := live("i1", "Writer", usagev1.Attention_ATTENTION_BUSY, usagev1.State_STATE_ACTIVE, since)
		var last time.Duration
		for second := time.Duration(0); second < typed+gap; second += 7 * time.Second {
			shown := b.busy(busy, since.Add(second))
			if shown < last {
				t.Fatalf("it fell from %v to %v while it went on", last, shown)
			}
			last = shown
		}
		b.setFinal([]*meteringv1.Instance{{
			InstanceId: "i1", DecidedTime: timestamppb.New(since.Add(typed)), Totals: &meteringv1.UsageTotals{Busy: durationpb.New(typed)},
		}})
		for _, attention := range []usagev1.Attention{usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE} {
			busy.Attention = attention
			if shown := b.busy(busy, since.Add(typed+gap)); shown < last {
				t.Fatalf("it fell from %v to %v at the end", last, shown)
			}
		}
	})
}

// TestRenderFits holds the table to the terminal whatever is in it.
func TestRenderFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		b := newBoard()
		for range rapid.IntRange(0, 40).Draw(t, "sessions") {
			session := &meteringv1.LiveSession{
				SessionId:     rapid.StringN(1, 9, -1).Draw(t, "id"),
				PrincipalName: rapid.StringMatching(`[a-zA-Zåßøé ]{0,40}`).Draw(t, "person"),
				MachineName:   rapid.StringMatching(`[a-z0-9-]{0,20}`).Draw(t, "machine"),
			}
			for range rapid.IntRange(0, 4).Draw(t, "instances") {
				attention := usagev1.Attention(rapid.IntRange(1, 7).Draw(t, "attention"))
				state := usagev1.State(rapid.IntRange(1, 3).Draw(t, "state"))
				session.Instances = append(session.Instances, live("i", "An application with quite a long name", attention, state, now))
			}
			b.take(answer(false, session))
		}
		width, height := rapid.IntRange(20, 160).Draw(t, "width"), rapid.IntRange(5, 60).Draw(t, "height")
		var out strings.Builder
		lines := render(&out, b.rows(now), width, height, false)
		text := strings.TrimSuffix(out.String(), "\n")
		if got := len(strings.Split(text, "\n")); got != lines || lines > height {
			t.Fatalf("%d lines told, %d written, %d allowed", lines, got, height)
		}
		for _, line := range strings.Split(text, "\n") {
			if utf8.RuneCountInString(line) > width {
				t.Fatalf("%q is wider than %d", line, width)
			}
		}
	})
}

// TestNarrowTerminalsShowTheFigures: names give way to SINCE, OPEN and BUSY down to
// 60 characters.
func TestNarrowTerminalsShowTheFigures(t *testing.T) {
	rows := []row{{
		person: "Bartholomew Featherstonehaugh", machine: "workstation-17", application: "An application with quite a long name",
		state: usagev1.State_STATE_INACTIVE, attention: usagev1.Attention_ATTENTION_BACKGROUND,
		since: 59 * time.Minute, open: 100 * time.Hour, busy: 99 * time.Hour, document: "Pier 3.FCStd", more: 2,
	}}
	for width := 60; width < 200; width++ {
		var out strings.Builder
		render(&out, rows, width, 10, false)
		for _, want := range []string{"SINCE", "OPEN", "BUSY", "59:00", "100:00:00", "99:00:00", "Bar", "An ", "○ Inactive", "… +2"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("at %d there is no %q:\n%s", width, want, out.String())
			}
		}
		if strings.Contains(out.String(), "Pier 3.FCStd") != strings.Contains(out.String(), "background") && width > 125 {
			t.Errorf("at %d there is room for all:\n%s", width, out.String())
		}
	}
}

func TestFoldText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-zé ]{0,90}`).Draw(t, "text")
		n := rapid.IntRange(5, 100).Draw(t, "n")
		lines := foldText(text, n)
		if got := strings.ReplaceAll(strings.Join(lines, ""), " ", ""); got != strings.ReplaceAll(text, " ", "") {
			t.Errorf("%q became %q", text, lines)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > n {
				t.Errorf("%q is longer than %d", line, n)
			}
		}
	})
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1:01", 3661 * time.Second: "1:01:01",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %s, want %s", d, got, want)
		}
	}
}
