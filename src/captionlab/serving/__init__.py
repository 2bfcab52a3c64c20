"""The MLflow model: registered, loaded back, served."""
