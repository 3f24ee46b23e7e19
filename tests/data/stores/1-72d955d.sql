BEGIN TRANSACTION;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    body TEXT NOT NULL
);
INSERT INTO "events" VALUES(3,'e-1','alice','{"execution_id": "e-1", "task_request_id": "r-1", "party": "alice", "status": "RUNNING", "data": {"stage": "task_execution", "progress": 0.5, "note": "数据 \"''"}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 2, "task_id": "t-1", "subtask_id": null, "timestamp": "2026-11-23T20:00:03+00:00", "event_id": "00000000000000000000000000000003"}');
INSERT INTO "events" VALUES(4,'e-1','bob','{"execution_id": "e-1", "task_request_id": "r-1", "party": "bob", "status": "RUNNING", "data": {"stage": "task_execution", "progress": 0.5}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 2, "task_id": "t-1", "subtask_id": null, "timestamp": "2026-11-23T20:00:04+00:00", "event_id": "00000000000000000000000000000004"}');
INSERT INTO "events" VALUES(5,'e-1','bob','{"execution_id": "e-1", "task_request_id": "r-1", "party": "bob", "status": "SUCCESS", "data": {"result": {"rows": 7, "ratio": 0.25}}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 3, "task_id": "t-1", "subtask_id": null, "timestamp": "2026-11-23T20:00:05+00:00", "event_id": "00000000000000000000000000000005"}');
INSERT INTO "events" VALUES(6,'e-2','bob','{"execution_id": "e-2", "task_request_id": "r-2", "party": "bob", "status": "RUNNING", "data": {"stage": "cluster_init", "progress": 0.1}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 1, "task_id": "t-1", "subtask_id": null, "timestamp": "2026-11-23T20:00:06+00:00", "event_id": "00000000000000000000000000000006"}');
INSERT INTO "events" VALUES(7,'e-3','alice','{"execution_id": "e-3", "task_request_id": "r-3", "party": "alice", "status": "FAILURE", "data": {"error": "A job died.", "error_code": "JobProcessDied", "ratio": null}, "worker_container": "node-1", "task_name": "tasks.secretflow.execute_task", "seq": 1, "task_id": "t-1", "subtask_id": null, "timestamp": "2026-11-23T20:00:07+00:00", "event_id": "00000000000000000000000000000007"}');
CREATE TABLE executions (
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    task_request_id TEXT NOT NULL,
    task_id TEXT,
    subtask_id TEXT,
    task_type TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'RUNNING',
    last_seq INTEGER NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (execution_id, party)
);
INSERT INTO "executions" VALUES('e-1','alice','r-1','t-1','s-1','psi','RUNNING',2,'2026-11-30 02:47:24');
INSERT INTO "executions" VALUES('e-1','bob','r-1','t-1','s-1','psi','SUCCESS',3,'2026-11-30 02:47:24');
INSERT INTO "executions" VALUES('e-2','bob','r-2',NULL,NULL,'logistic_regression','RUNNING',1,'2026-11-30 02:47:24');
INSERT INTO "executions" VALUES('e-3','alice','r-3',NULL,NULL,'psi','FAILURE',1,'2026-11-30 02:47:24');
INSERT INTO "executions" VALUES('e-4','alice','r-4',NULL,NULL,'psi','RUNNING',0,'2026-11-30 02:47:24');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',7);
COMMIT;
