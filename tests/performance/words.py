"""The words of the tables, in English and Chinese; `pages` has what stands around them."""

# Which of the words below says why a task type may be slower.
WHY = {
    "psi": "why_psi",
    "woe_iv": "why_woe",
    **dict.fromkeys(("ss_glm", "ss_kmeans"), "why_other"),
    **dict.fromkeys(
        ("ss_lr", "ss_xgb", "sgb", "pearson_correlation", "vif", "workflow"), "why_first"
    ),
    **dict.fromkeys(
        ("ss_lr_predict", "ss_xgb_predict", "ss_glm_predict", "ss_kmeans_predict"), "why_first"
    ),
    **dict.fromkeys(
        ("standard_scaler", "min_max_scaler", "label_encoder", "onehot_encoder"), "why_cells"
    ),
    **dict.fromkeys(("binning", "fillna", "train_test_split", "table_statistics"), "why_cells"),
}
_WORDS = {
    "what": ("", ""),
    "value": ("measured on", "测量环境"),
    "task": ("rows x columns", "行数 x 列数"),
    "task_type": ("task", "任务"),
    "rows": ("rows", "行数"),
    "worker": ("worker (s)", "worker（秒）"),
    "warm": ("warm (s)", "热进程（秒）"),
    "ratio": ("ratio", "比值"),
    "spread": ("spread", "离散度"),
    "limit": ("5 % + 0.5 s", "5 % + 0.5 秒"),
    "kept": ("kept", "满足"),
    "cold": ("cold (s)", "冷脚本（秒）"),
    "against": ("compared with", "比较对象"),
    "SecretFlow": ("SecretFlow", "SecretFlow"),
    "own": ("own code", "自有代码"),
    "slower": (
        "- {work}: {worker:.2f} s, warm {warm:.2f} s, {beyond:.2f} s beyond. ",
        "- {work}：{worker:.2f} 秒，热进程 {warm:.2f} 秒，超出 {beyond:.2f} 秒。",
    ),
    "why_psi": (
        "The worker finds duplicate keys, takes the rows itself "
        "and proves that they belong together.",
        "worker 会查找重复键、自己取出各行，并证明双方的行一一对应。",
    ),
    "why_woe": (
        "The positive rows of every bin are counted on shares, "
        "so that no party sees the bins of another.",
        "每个分箱的正样本数在秘密分享上统计，任何一方都看不到另一方的分箱。",
    ),
    "why_other": (
        "The worker runs an algorithm of its own, because SecretFlow's "
        "gives wrong results without an error.",
        "worker 使用自己的算法，因为 SecretFlow 的算法会给出错误结果却不报错。",
    ),
    "why_first": (
        "A new process uses JAX, the SPU and its link for the first time; "
        "the warm pair has done so before.",
        "新进程第一次使用 JAX、SPU 及其链路，而热进程早已用过。",
    ),
    "why_cells": (
        "Every cell is read as text and checked, and what is not transformed is written as it was.",
        "每个单元格都按文本读取并检查，未变换的内容原样写出。",
    ),
    "none_slower": ("- none", "- 无"),
    "fixed": (
        "At the smallest sizes a job takes {middle:.2f} s longer "
        "than the same work in a warm process "
        "(median of the task types; at most {most:.2f} s).",
        "在最小规模下，一个作业比热进程中同样的工作多用 {middle:.2f} 秒（各任务类型的中位数；最多 {most:.2f} 秒）。",
    ),
    "stage": ("stage", "阶段"),
    "milliseconds": ("ms", "毫秒"),
    "prepare": ("checking the input, and waiting for the peer's", "检查输入，并等待对方"),
    "cluster_init": ("SecretFlow's session", "SecretFlow 会话"),
    "device_creation": ("devices", "设备"),
    "task_execution": ("the task, with the SPU's link", "任务本身，含 SPU 链路"),
    "rest": (
        "queue, start of the processes, closing barrier, settlement, status",
        "排队、进程启动、结束屏障、结算、状态",
    ),
    "alignment": ("check (s)", "校验（秒）"),
    "share": ("share", "占比"),
    "worker_exponent": ("worker", "worker"),
    "warm_exponent": ("warm", "热进程"),
    "at_once": ("at once", "同时"),
    "per_minute": ("per minute", "每分钟"),
    "stream": ("{count} in the queue", "队列中 {count} 个"),
    "first": ("request to first event", "请求到第一个事件"),
    "delays": ("event to its arrival", "事件到达"),
    "slowest": ("slowest", "最慢"),
    "megabytes": ("peak (MB)", "峰值（MB）"),
    "worker_memory": ("worker", "worker"),
    "warm_memory": ("warm", "热进程"),
    "idle": ("after all works, idle", "全部完成后空闲"),
}
WORDS = tuple({key: texts[language] for key, texts in _WORDS.items()} for language in range(2))
