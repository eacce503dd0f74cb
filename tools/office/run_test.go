package office

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestThePresentAndThePastAgreeOnAMachine: both begin at once in a fresh folder; neither
// may meet what the other has half written.
func TestThePresentAndThePastAgreeOnAMachine(t *testing.T) {
	staff := Staff()
	o, err := New(Config{Dir: t.TempDir(), Staff: staff})
	if err != nil {
		t.Fatal(err)
	}
	var beginning sync.WaitGroup
	for _, person := range staff {
		for _, tense := range []string{"live", "history"} {
			beginning.Go(func() {
				if _, err := o.folder(tense, person); err != nil {
					t.Errorf("%s, %s: %v", person.Host, tense, err)
				}
			})
		}
	}
	beginning.Wait()
	for _, person := range staff {
		machines := map[string]bool{}
		for _, tense := range []string{"live", "history"} {
			text, err := os.ReadFile(filepath.Join(o.config.Dir, tense, person.Host, "identity.json"))
			if err != nil {
				t.Fatal(err)
			}
			identity := map[string]string{}
			if err := json.Unmarshal(text, &identity); err != nil {
				t.Fatal(err)
			}
			machines[identity["machine_id"]] = true
		}
		if len(machines) != 1 {
			t.Errorf("%s is %d machines", person.Host, len(machines))
		}
	}
}
