package scim

import (
	"testing"

	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
)

// TestEventsOfEveryVersion: what was once written can be read for ever.
func TestEventsOfEveryVersion(t *testing.T) {
	eventlogtest.Golden(t, newRegistry(), "testdata/events")
}
