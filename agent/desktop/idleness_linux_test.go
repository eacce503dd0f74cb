package desktop

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever is typed, and however the compositor's news and our looks fall: what is told
// never goes back, never lies behind the last input, is near it at each time of activity's
// begin and end, and calls a lone input one.
func TestIdleness(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const timeout = 250
		i := idleness{timeoutMillis: timeout}
		now := rapid.Int64Range(1_000, 100_000).Draw(t, "beginning")
		begun := now
		i.begin(now)
		idle, timer := false, now+timeout
		var last, told int64 // the last input, and the last time that was told
		look := func() {
			got := i.at(now)
			if got < told {
				t.Fatalf("the last input goes back from %d to %d", told, got)
			}
			if got > max(last, 0) {
				t.Fatalf("at %d an input at %d is told, the last one was at %d", now, got, last)
			}
			// Of what came as it began, nothing may be known.
			if truth := last; truth > begun+beginningMillis+timeout && truth-got > timeout+newsMillis {
				t.Fatalf("at %d an input at %d is told, the last one was at %d", now, got, truth)
			}
			told = got
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			until := now + rapid.Int64Range(1, 900).Draw(t, "passed")
			if !idle && timer <= until {
				now = timer
				i.becameIdle(now)
				idle = true
				look()
				if last > begun+beginningMillis && last-told > newsMillis {
					t.Fatalf("idle since the input at %d, told %d", last, told)
				}
			}
			now = until
			if rapid.Bool().Draw(t, "input") {
				last, timer = now, now+timeout
				if idle {
					lone := now
					i.resumed(now)
					idle = false
					look()
					if told != lone {
						t.Fatalf("the first input after idleness, at %d, is told at %d", lone, told)
					}
				}
			}
			look()
		}
	})
}

// A lone input stays at one time, though the news of the silence after it is late.
func TestLoneInput(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		i := idleness{timeoutMillis: 250}
		i.begin(1_000)
		i.becameIdle(1_250)
		i.resumed(5_000)
		for at := int64(5_000); at < 5_250; at += rapid.Int64Range(1, 100).Draw(t, "passed") {
			if got := i.at(at); got != 5_000 {
				t.Fatalf("told at %d", got)
			}
		}
		i.becameIdle(5_250 + rapid.Int64Range(0, newsMillis).Draw(t, "late"))
		if got := i.at(9_000); got != 5_000 {
			t.Fatalf("told at %d after the silence", got)
		}
	})
}
