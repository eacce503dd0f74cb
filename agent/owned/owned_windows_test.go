package owned

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/windows"
)

// letIn lets everybody change a folder.
func letIn(t *testing.T, path string) {
	t.Helper()
	descriptor, err := windows.SecurityDescriptorFromString("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;WD)")
	if err != nil {
		t.Fatal(err)
	}
	acl, _, err := descriptor.DACL()
	if err != nil {
		t.Fatal(err)
	}
	if err := windows.SetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil); err != nil {
		t.Fatal(err)
	}
}

func isOpen(err error) bool {
	var open *OpenError
	return errors.As(err, &open)
}

func TestFolders(t *testing.T) {
	top := filepath.Join(t.TempDir(), "Cetrus")
	data := filepath.Join(top, "Agent")
	for range 2 {
		if err := Folder(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []string{top, data} {
		if err := Check(made); err != nil {
			t.Error(err)
		}
	}
	settings := filepath.Join(data, "agent.yaml")
	if err := os.WriteFile(settings, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(settings); err != nil {
		t.Error(err)
	}
	if err := Check(filepath.Join(data, "nothing.yaml")); err == nil || isOpen(err) {
		t.Errorf("what is not there: %v", err)
	}

	letIn(t, data)
	if err := Check(data); !isOpen(err) {
		t.Errorf("a folder that everybody may change is believed: %v", err)
	}
	if err := Check(settings); !isOpen(err) {
		t.Errorf("a file that everybody may replace is believed: %v", err)
	}
	if err := Folder(data); !isOpen(err) {
		t.Errorf("a folder that others may have written into is used: %v", err)
	}
	// It was shut all the same, so that what is in it can be looked at in peace.
	if err := Check(data); err != nil {
		t.Error(err)
	}

	empty := filepath.Join(top, "Empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	letIn(t, empty)
	if err := Folder(empty); err != nil {
		t.Errorf("an empty folder is not shut: %v", err)
	}
	letIn(t, top)
	if err := Folder(filepath.Join(top, "Other")); !isOpen(err) {
		t.Errorf("a folder is used in one where everybody may replace it: %v", err)
	}
}
