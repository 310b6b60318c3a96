"""Ways to reach people; each implements `flows.approvals.notices.Channel`."""
