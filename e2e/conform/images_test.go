package conform

import (
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tags are three names of one image.
var tags = []string{
	"gcr.io/k8s-staging-cri-tools/test-image-tags:1",
	"gcr.io/k8s-staging-cri-tools/test-image-tags:2",
	"gcr.io/k8s-staging-cri-tools/test-image-tags:3",
}

// Lists are filtered; removing a name removes that name, removing the id removes the image.
func TestImagesByTagAndById(t *testing.T) {
	runtime := minke(t)
	for _, tag := range tags {
		runtime.pull(t, tag)
	}
	listed := func(name string) []*v1.Image {
		t.Helper()
		filter := &v1.ImageFilter{Image: &v1.ImageSpec{Image: name}}
		answer, err := runtime.images.ListImages(soon(t), &v1.ListImagesRequest{Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Images
	}
	remove := func(name string) {
		t.Helper()
		_, err := runtime.images.RemoveImage(soon(t), &v1.RemoveImageRequest{Image: &v1.ImageSpec{Image: name}})
		if err != nil {
			t.Fatal(err)
		}
	}
	all := listed(tags[0])
	if len(all) != 1 || len(all[0].RepoTags) != 3 {
		t.Fatalf("%v", all)
	}
	id := all[0].Id
	if byId := listed(id); len(byId) != 1 || byId[0].Id != id {
		t.Errorf("by its id: %v", byId)
	}
	if none := listed("gcr.io/k8s-staging-cri-tools/no-such:1"); len(none) != 0 {
		t.Errorf("an unknown name: %v", none)
	}
	remove(tags[0])
	if left := listed(id); len(left) != 1 || len(left[0].RepoTags) != 2 || len(listed(tags[0])) != 0 {
		t.Errorf("after a tag: %v", left)
	}
	remove(id)
	if left := append(listed(id), listed(tags[1])...); len(left) != 0 {
		t.Errorf("after the id: %v", left)
	}
	remove(id)
	status, err := runtime.images.ImageStatus(soon(t), &v1.ImageStatusRequest{Image: &v1.ImageSpec{Image: tags[1]}})
	if err != nil || status.Image != nil {
		t.Errorf("the status of what is not there: %v, %v", status, err)
	}
}
