package fingerprint

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tree makes files; a name that ends with -> links to what stands there.
func tree(t *testing.T, files, links map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := os.MkdirAll(filepath.Join(root, to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadsABuiltInMachine(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"sys/class/dmi/id/product_uuid":        "4C4C4544-0042",
		"etc/machine-id":                       "9f1c",
		"proc/sys/kernel/hostname":             "ws-01",
		"sys/class/net/eno1/address":           "a4:bb:6d:01:02:03",
		"sys/class/net/eno1/addr_assign_type":  "0",
		"sys/class/net/wlan0/address":          "da:00:00:00:00:01", // drawn against being recognised
		"sys/class/net/wlan0/addr_assign_type": "3",
		"sys/class/net/dock0/address":          "00:e0:4c:00:00:01",
		"sys/class/net/dock0/addr_assign_type": "0",
		"sys/class/net/veth0/address":          "aa:00:00:00:00:01",
		"sys/class/net/veth0/addr_assign_type": "0",
		"sys/block/nvme0n1/wwid":               "eui.0025",
		"sys/block/sdb/removable":              "0",
		"sys/block/sdb/device-is":              "on a cable",
		"sys/block/loop0/size":                 "1",
	}, map[string]string{
		"sys/class/net/eno1/device":  "sys/devices/pci0000:00/0000:00:1f.6",
		"sys/class/net/wlan0/device": "sys/devices/pci0000:00/0000:00:14.3",
		"sys/class/net/dock0/device": "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1",
		"sys/block/nvme0n1/device":   "sys/devices/pci0000:00/nvme0",
		"sys/block/sdb/device":       "sys/devices/pci0000:00/usb1/1-1",
	})
	want := Traits{System: {"4c4c4544-0042"}, Network: {"a4:bb:6d:01:02:03"}, Disks: {"eui.0025"}, Installation: {"9f1c"}, Name: {"ws-01"}}
	got := readTree(root)
	for _, name := range []Trait{System, Instance, Network, Disks, Installation, Name} {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
	}
}

func TestReadsThisMachine(t *testing.T) {
	t.Parallel()
	if got := Read(); len(got[Name]) != 1 {
		t.Errorf("this machine has no name: %v", got)
	}
}
