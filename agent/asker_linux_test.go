package agent

import (
	"os"
	"testing"
)

// Each person with a session has places of their own; all others share, since one person may
// have as many users as they like.
func TestPlacesOfUsers(t *testing.T) {
	t.Parallel()
	sits := func(uid string) bool { return uid == "70001" || uid == "70002" }
	ann, bob := placeOfUser(70_001, sits), placeOfUser(70_002, sits)
	eve, spare := placeOfUser(70_003, sits), placeOfUser(70_004, sits)
	root, own := placeOfUser(0, sits), placeOfUser(uint32(os.Geteuid()), sits)
	if ann == bob || ann == eve || bob == eve || eve != spare || root != own || root == eve || root == ann {
		t.Errorf("places: %q, %q, %q, %q, %q, %q", ann, bob, eve, spare, root, own)
	}
}
