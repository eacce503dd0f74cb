package figure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Line is one figure. Fields that do not apply are zero.
type Line struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Limit is what Value is held against. Of what is lost, doubled or left over, 0 means that nothing may
	// be; of all else, that there is no limit.
	Limit float64 `json:"limit"`
	// Ratio is Value to Limit, unless who measured it says otherwise.
	Ratio float64 `json:"ratio"`
	// More are figures beside the main one; their names end in their unit.
	More map[string]any `json:"more,omitempty"`
}

// Write writes the line. It works out the ratio where there is a limit and none is given.
func (l Line) Write(w io.Writer) error {
	if l.Ratio == 0 && l.Limit != 0 {
		l.Ratio = l.Value / l.Limit
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("figure: %s: %w", l.Name, err)
	}
	return nil
}

// Append adds lines to a file, which is made, with its folder, where it is not there.
func Append(path string, lines ...Line) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("figure: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("figure: %w", err)
	}
	for _, l := range lines {
		err = errors.Join(err, l.Write(file))
	}
	return errors.Join(err, file.Close())
}
