// Command chart-objects writes what the charts make of the matrix of values (charts.Matrix): every object once, as a line
// of JSON with the name of one of the releases that it is in. Whoever has an API server can ask that what it thinks of them.
// It runs in the folder of the charts.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/cetrus/cetrus/charts"
)

func main() {
	if err := write(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// line is one object.
type line struct {
	Release string          `json:"release"`
	Object  json.RawMessage `json:"object"`
}

func write(ctx context.Context, to io.Writer) error {
	all, err := charts.Matrix()
	if err != nil {
		return err
	}
	lines, seen := json.NewEncoder(to), make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		made, err := charts.Render(ctx, all[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, object := range made.Objects {
			text, err := json.Marshal(object.Object)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if seen[string(text)] {
				continue
			}
			seen[string(text)] = true
			if err := lines.Encode(line{name, text}); err != nil {
				return err
			}
		}
	}
	return nil
}
