package desktop

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A directory of users that does not answer holds up what is watched once, not once for
// each person, and nobody is called otherwise for it: the login manager says who they are.
func TestPeopleWithoutADirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, dead := 0, true
		directory := func(ctx context.Context, uid uint32) ([]string, error) {
			if asked++; dead {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []string{"ann", "", "", "", "Ann Obi,Room 12", "/home/ann"}, nil
		}
		u := newUsers()
		u.lookUp = directory
		began := time.Now()
		offline := u.of(70_000, "ann")
		for uid := uint32(70_001); uid < 70_050; uid++ {
			u.of(uid, "somebody")
		}
		if took := time.Since(began); took > namePatience || asked != 1 {
			t.Errorf("a dead directory was asked %d times, and waited for for %v", asked, took)
		}
		if again := u.of(70_000, ""); again != offline {
			t.Errorf("%+v is called %+v", offline, again)
		}
		if stranger := u.of(70_099, ""); stranger.Name != "70099" || stranger.UID != "70099" {
			t.Errorf("whom nothing names is %+v", stranger)
		}
		dead = false
		u = newUsers()
		u.lookUp = directory
		online := u.of(70_000, "ann")
		if online.Key() != offline.Key() || online.UID != "70000" || online.DisplayName != "Ann Obi" {
			t.Errorf("without a directory %+v, with it %+v", offline, online)
		}
	})
}
