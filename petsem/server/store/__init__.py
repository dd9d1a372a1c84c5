"""SQL by table: functions over a connection that decide nothing about who may."""
