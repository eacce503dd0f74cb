//go:build linux

package wine

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// trayTitle is what Wine calls the window with the icons, where there is no taskbar.
const trayTitle = "^Wine System Tray$"

// choose clicks the icon beside the clock, and then its menu, at a part of its height. It is
// tried again where the icon has nothing to show yet.
func (w *Wine) choose(t *testing.T, button string, height float64) {
	t.Helper()
	place := regexp.MustCompile(`(?m)^(WINDOW|X|Y|WIDTH|HEIGHT)=(\d+)$`)
	geometry := func(args ...string) map[string]int {
		found := map[string]int{}
		out, err := w.xdo(args...)
		if err != nil {
			return found // it has just gone
		}
		for _, match := range place.FindAllStringSubmatch(out, -1) {
			found[match[1]], _ = strconv.Atoi(match[2])
		}
		return found
	}
	eventually(t, time.Minute, "the icon's menu", func() (string, bool) {
		tray, err := w.xdo("search", "--onlyvisible", "--name", trayTitle)
		if err != nil {
			return "no icon", false
		}
		at := geometry("mousemove", "--window", tray, "10", "10", "getmouselocation", "--shell")
		bare := geometry("mousemove", strconv.Itoa(at["X"]+40), strconv.Itoa(at["Y"]+20), "getmouselocation", "--shell")
		w.Do("mousemove", "--window", tray, "10", "10", "click", button)
		var menu map[string]int
		for deadline := time.Now().Add(3 * time.Second); ; <-time.After(50 * time.Millisecond) {
			// Its upper edge, where nothing can be chosen.
			menu = geometry("mousemove", strconv.Itoa(at["X"]+40), strconv.Itoa(at["Y"]+20), "getmouselocation", "--shell")
			if menu["WINDOW"] != 0 && menu["WINDOW"] != bare["WINDOW"] {
				break
			}
			if time.Now().After(deadline) {
				return "no menu", false
			}
		}
		size := geometry("getwindowgeometry", "--shell", strconv.Itoa(menu["WINDOW"]))
		if size["HEIGHT"] == 0 {
			return "the menu went", false
		}
		x, y := strconv.Itoa(size["X"]+size["WIDTH"]/3), strconv.Itoa(size["Y"]+int(height*float64(size["HEIGHT"])))
		w.Do("mousemove", x, y)
		w.shoot(fmt.Sprintf("tray-%.2f", height))
		w.Do("click", "1")
		return "", true
	})
}

// The service shows an icon beside the clock; what is chosen from its menu is done, and with
// the service it goes.
func TestTrayOnWindows(t *testing.T) {
	t.Parallel()
	w := Start(t)
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	const data = `C:\agent data`
	w.Run(time.Minute, agent, "install", "--manager", "127.0.0.1:1", "--data-dir", data)
	w.Run(time.Minute, agent, "start")
	paused := func(want bool) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprint("paused: ", want), func() (string, bool) {
			out, err := w.Try(20*time.Second, agent, "status", "--json", "--data-dir", data)
			return out, err == nil && strings.Contains(out, `"by": "person"`) == want && strings.Contains(out, `"watched": true`)
		})
	}
	paused(false)
	// Seven lines of which two are for reading and two part the others: the fourth.
	w.choose(t, "3", 0.5)
	paused(true)
	// Now there is one line less above it.
	w.choose(t, "1", 0.88)
	const notice = "What Cetrus records on this computer"
	eventually(t, time.Minute, "the notice", func() (string, bool) {
		n := w.Running("cetrus-agent.exe prompt")
		// Windows may leave the keyboard where it was.
		_, err := w.xdo("search", "--onlyvisible", "--name", "^"+notice+"$", "windowactivate")
		return fmt.Sprint(n, " processes"), err == nil
	})
	w.focused(t, notice)
	w.shoot("tray-notice")
	w.Do("key", "Return")
	eventually(t, 30*time.Second, "the notice to close", func() (string, bool) {
		n := w.Running("cetrus-agent.exe prompt")
		return fmt.Sprint(n, " processes"), n == 0
	})
	w.choose(t, "1", 0.4)
	paused(false)
	// What it has to say stands in the person's own folder.
	logs, err := filepath.Glob(w.C("users", "*", "AppData", "Local", "Cetrus", "tray.log"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("the icon's logs are %q, %v", logs, err)
	}
	if text, err := os.ReadFile(logs[0]); err != nil || !strings.Contains(string(text), "the icon begins") {
		t.Errorf("the icon's log says %q, %v", text, err)
	}
	w.Run(time.Minute, agent, "stop")
	eventually(t, 30*time.Second, "the icon to go", func() (string, bool) {
		tray, _ := w.xdo("search", "--onlyvisible", "--name", trayTitle)
		n := w.Running("cetrus-agent.exe")
		return fmt.Sprint(tray, " and ", n, " processes"), n == 0 && tray == ""
	})
}
