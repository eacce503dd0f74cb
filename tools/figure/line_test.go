package figure

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLinesAreAdded: what was in the file stays, and a ratio that who measured gives is not worked out again.
func TestLinesAreAdded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "figures.jsonl")
	want := []Line{{Name: "a", Value: 3, Unit: "ms", Limit: 4, Ratio: 0.75}, {Name: "b", Value: 3, Unit: "ms", Limit: 4, Ratio: 0.5}, {Name: "lost", Unit: "ms"}}
	for _, l := range []Line{{Name: "a", Value: 3, Unit: "ms", Limit: 4}, want[1], want[2]} {
		if err := Append(path, l); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %s", len(lines), text)
	}
	for i, line := range lines {
		var got Line
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got.More != nil || got.Name != want[i].Name || got.Value != want[i].Value || got.Limit != want[i].Limit || got.Ratio != want[i].Ratio {
			t.Errorf("%s is %+v, not %+v", line, got, want[i])
		}
	}
}

// TestWhatCannotBeWrittenIsTold: by its name.
func TestWhatCannotBeWrittenIsTold(t *testing.T) {
	if err := Append(filepath.Join(t.TempDir(), "figures.jsonl"), Line{Name: "speed", More: map[string]any{"of": make(chan int)}}); err == nil || !strings.Contains(err.Error(), "speed") {
		t.Errorf("%v", err)
	}
}
