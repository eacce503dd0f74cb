package prompt

import (
	"testing"
	"time"
)

// By the clock: when keys count, and whom the keyboard is never taken from.
func TestAttention(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type step struct {
		at   time.Duration
		do   string
		want bool // key: it counts; wake: the keyboard is asked for
	}
	for name, steps := range map[string][]step{
		"taken back":                    {{0, "show", false}, {1 * ms, "gain", false}, {500 * ms, "lose", false}, {799 * ms, "wake", false}, {801 * ms, "wake", true}},
		"taken back once":               {{0, "show", false}, {1 * ms, "gain", false}, {500 * ms, "lose", false}, {900 * ms, "wake", true}, {901 * ms, "gain", false}, {1300 * ms, "lose", false}, {2300 * ms, "wake", false}},
		"never had":                     {{0, "show", false}, {400 * ms, "wake", true}},
		"never had, somebody writes":    {{0, "show", false}, {250 * ms, "elsewhere", false}, {400 * ms, "wake", false}, {1400 * ms, "wake", false}},
		"just started with Enter":       {{0, "elsewhere", false}, {100 * ms, "show", false}, {101 * ms, "gain", false}, {200 * ms, "lose", false}, {500 * ms, "wake", false}, {699 * ms, "wake", false}, {701 * ms, "wake", true}},
		"somebody writes there":         {{0, "show", false}, {1 * ms, "gain", false}, {500 * ms, "lose", false}, {600 * ms, "elsewhere", false}, {801 * ms, "wake", false}, {2 * time.Second, "wake", false}},
		"led away with Alt+Tab":         {{0, "show", false}, {1 * ms, "gain", false}, {450 * ms, "elsewhere", false}, {500 * ms, "lose", false}, {2 * time.Second, "wake", false}},
		"led away with a click":         {{0, "show", false}, {1 * ms, "gain", false}, {450 * ms, "click there", false}, {500 * ms, "lose", false}, {2 * time.Second, "wake", false}},
		"after a long time":             {{0, "show", false}, {1 * ms, "gain", false}, {16 * time.Second, "lose", false}, {17 * time.Second, "wake", false}},
		"somebody has begun to answer":  {{0, "show", false}, {1 * ms, "gain", false}, {400 * ms, "key", true}, {500 * ms, "lose", false}, {2 * time.Second, "wake", false}},
		"a key at once":                 {{0, "gain", false}, {299 * ms, "key", false}, {598 * ms, "key", false}, {899 * ms, "key", true}, {900 * ms, "key", true}},
		"a key at once after the click": {{0, "gain", false}, {10 * ms, "click", false}, {11 * ms, "key", true}},
		"a key not yet taken in":        {{0, "gain", false}, {250 * ms, "elsewhere", false}, {301 * ms, "wake", false}, {310 * ms, "key", false}},
		"keys anew each time":           {{0, "gain", false}, {400 * ms, "key", true}, {500 * ms, "lose", false}, {600 * ms, "gain", false}, {700 * ms, "key", false}},
	} {
		begin := time.Now()
		var now, keyboard, pointer time.Duration = 0, -time.Hour, -time.Hour
		a := &attention{idle: func() (time.Duration, time.Duration, bool) { return now - keyboard, now - pointer, true }}
		for _, s := range steps {
			now = s.at
			got, at := false, begin.Add(s.at)
			switch s.do {
			case "show":
				a.show(at)
			case "gain":
				a.gain(at)
			case "lose":
				a.lose(at)
			case "click":
				a.click()
			case "elsewhere":
				keyboard = now
			case "click there":
				pointer = now
			case "key":
				got, keyboard = a.key(at), now
			case "wake":
				got = a.wake(at)
			}
			if got != s.want {
				t.Errorf("%s: at %v %s gives %v", name, s.at, s.do, got)
			}
		}
	}
}

// Whatever a server says of its counters is read without harm.
func FuzzCounters(f *testing.F) {
	list := append(make([]byte, answerBytes), 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 'A', 'B')
	f.Add(list)
	f.Add(list[:40])
	if got := readCounters(list); len(got) != 1 || got["AB"] != 7 {
		f.Errorf("the counters are %v", got)
	}
	f.Fuzz(func(_ *testing.T, list []byte) { readCounters(list) })
}
