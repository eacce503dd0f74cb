package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/cetrus/cetrus/tools/cluster"
)

const provisioner = "cluster.cetrus.test/volume"

// volumes are what claims are given, each in a file of its own beside the folder that it is mounted on.
// Mounts are the node's alone, so they go with it, and their loop devices with them.
type volumes struct {
	dir string
	// limited: each is a filesystem of the size that was claimed. Otherwise it is a folder.
	limited bool
}

// newVolumes tries whether a filesystem in a file can be mounted here, and tells in words where it cannot.
func newVolumes(ctx context.Context) (volumes, error) {
	v := volumes{dir: filepath.Join(cluster.NodeDir, "volumes"), limited: true}
	if err := os.MkdirAll(v.dir, 0o755); err != nil {
		return v, err
	}
	const name, size = "trial", 16 << 20
	err := v.make(ctx, name, size)
	return v, errors.Join(err, v.remove(name))
}

func provideVolumes(ctx context.Context, client kubernetes.Interface, v volumes) error {
	controller.NewProvisionController(ctx, client, provisioner, v, controller.LeaderElection(false)).Run(ctx)
	return ctx.Err()
}

func (v volumes) folder(name string) string { return filepath.Join(v.dir, name) }
func (v volumes) file(name string) string   { return v.folder(name) + ".ext4" }

// make makes a volume that anybody may write to, whoever a pod runs as: the kubelet hands it to the pod's
// group where one is asked for.
func (v volumes) make(ctx context.Context, name string, bytes int64) error {
	if err := os.MkdirAll(v.folder(name), 0o755); err != nil {
		return err
	}
	if v.limited {
		if err := v.fill(ctx, name, bytes); err != nil {
			return err
		}
	}
	return os.Chmod(v.folder(name), 0o777)
}

// fill lays a filesystem of its own over a volume's folder. The file takes only the room of what is in it.
func (v volumes) fill(ctx context.Context, name string, bytes int64) error {
	file, err := os.Create(v.file(name))
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(bytes), file.Close()); err != nil {
		return err
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", v.file(name)},
		{"mount", "-t", "ext4", "-o", "loop,discard,noinit_itable", v.file(name), v.folder(name)},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command[0], err, out)
		}
	}
	return nil
}

// remove removes a volume and what is in it.
func (v volumes) remove(name string) error {
	if v.limited {
		// Not mounted, or gone, where making it had failed half-way.
		if err := unix.Unmount(v.folder(name), 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", v.folder(name), err)
		}
		if err := os.Remove(v.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(v.folder(name))
}

// Provision makes a volume for a claim.
func (v volumes) Provision(ctx context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	size := options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	if err := v.make(ctx, options.PVName, size.Value()); err != nil {
		return nil, controller.ProvisioningFinished, errors.Join(
			fmt.Errorf("a volume of %s for the claim %s: %w", size.String(), options.PVC.Name, err), v.remove(options.PVName))
	}
	return v.volume(options, size), controller.ProvisioningFinished, nil
}

func (v volumes) volume(options controller.ProvisionOptions, size resource.Quantity) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: size},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: v.folder(options.PVName)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{cluster.NodeName},
				}},
			}}}},
		},
	}
}

// Delete removes the volume.
func (v volumes) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	return v.remove(volume.Name)
}
