package postgres

import (
	"math"
	"testing"
	"testing/fstest"
)

func TestMemoryIsWhatControlGroupsAllow(t *testing.T) {
	const none = math.MaxInt64
	for name, c := range map[string]struct {
		want  int64
		files map[string]string
	}{
		"no groups":              {none, nil},
		"version 2":              {1 << 30, map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1073741824\n"}},
		"version 2, no limit":    {none, map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}},
		"version 2, group above": {5, map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "5\n"}},
		"version 2, container":   {6, map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "6\n"}},
		"version 1": {7, map[string]string{
			"proc/self/cgroup": "9:cpu,cpuacct:/c\n4:hugetlb,memory:/a\n0::/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "7\n", "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}},
		"version 1, container": {8, map[string]string{"proc/self/cgroup": "4:memory:/docker/1a2b\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "8\n"}},
		"nonsense":             {none, map[string]string{"proc/self/cgroup": "0:\n\n::\n0::../../x\n0::/a\n", "sys/fs/cgroup/a/memory.max": "-\n"}},
	} {
		files := fstest.MapFS{}
		for path, text := range c.files {
			files[path] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memoryLimit(files); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
