package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/release"
	signing "github.com/cetrus/cetrus/proto/release"
)

// releaseNumber is set by the linker: the number of the release that this program is.
var releaseNumber = "0"

// releases says whose releases the agent takes; nil: it takes none.
func (s *settings) releases() (*agent.ReleasesConfig, error) {
	if s.releaseKeys == "" {
		return nil, nil
	}
	text, err := os.ReadFile(s.releaseKeys)
	if err != nil {
		return nil, fmt.Errorf("release-keys: %w", err)
	}
	keys, err := signing.ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("release-keys: %s: %w", s.releaseKeys, err)
	}
	installed, err := strconv.ParseUint(releaseNumber, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("this program was built with the release number %q, which is no number: %w", releaseNumber, err)
	}
	return &agent.ReleasesConfig{
		Dir:   filepath.Join(s.dataDir, "releases"),
		Trust: release.Config{Keys: keys, Installed: installed, System: runtime.GOOS, Architecture: runtime.GOARCH},
		Trial: release.OnTrial(),
	}, nil
}
