/** One caller's place among those of this process that wait for a name. */
export interface Waiter {
  /**
   * Resolves when the lock may be free, or after `timeoutMs`: with the error of the last look at the database if that
   * failed, else with undefined. Rejects with the signal's reason when it aborts.
   */
  next(timeoutMs: number, signal: AbortSignal): Promise<Error | undefined>
  /** Leaves. */
  stop(): void
}

/**
 * Tells waiters that a lock may be free. Never proof: a waiter that is woken tries, and one that is never woken tries at
 * its deadline all the same.
 */
export interface WakeUps {
  wait(name: string): Waiter
  /** The lock was just given up by this process. */
  hint(name: string): void
  waiting(name: string): number
  close(): void
}
