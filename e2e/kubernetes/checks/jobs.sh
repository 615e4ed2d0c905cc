# Jobs and CronJobs.
in_namespace jobs

apply <<Y
apiVersion: batch/v1
kind: Job
metadata: { name: three }
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sh, -c, "echo done"] }]
---
apiVersion: batch/v1
kind: Job
metadata: { name: fails }
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{ name: main, image: $BUSYBOX_IMAGE, command: ["false"] }]
---
apiVersion: batch/v1
kind: CronJob
metadata: { name: minutely }
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [date] }]
Y
check "a Job completes" kn wait --for=condition=Complete job/three --timeout=60s
check "by as many pods as it asks for" is "$(kn get pods -l job-name=three -o jsonpath='{.items[*].status.phase}')" "Succeeded Succeeded Succeeded"
check "a failing Job gives up" kn wait --for=condition=Failed job/fails --timeout=90s
check "after its retries" is "$(kn get pods -l job-name=fails -o name | wc -l)" 2
ran() { kn get jobs -o jsonpath='{range .items[?(@.status.succeeded==1)]}{.metadata.name}{"\n"}{end}' | grep -q minutely; }
check "a CronJob runs" wait_until 90 ran
done_with_namespace
