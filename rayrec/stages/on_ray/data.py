"""Ray Data's settings for the pipelines of this package."""

import logging

import ray.data


def quiet_context() -> "ray.data.DataContext":
    """For `with ray.data.DataContext.current(...)`: rows stay in order, and our own progress lines are the only ones."""
    for chatty in ("progress", "execution.streaming_executor"):
        logging.getLogger(f"ray.data._internal.{chatty}").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    return context
