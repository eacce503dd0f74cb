package fingerprint

import "testing"

// Wine has no hypervisor and no disks to ask; what else is read must come.
func TestReadsThisMachine(t *testing.T) {
	got := Read()
	t.Logf("traits: %v", got)
	for _, name := range []Trait{Name, Installation, Volume} {
		if len(got[name]) != 1 {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	if again := Read(); len(again) != len(got) {
		t.Errorf("read again there are other traits: %v", again)
	}
}
