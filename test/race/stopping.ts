import type { Result, SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { routed } from '../statements.ts'

export interface Stopped {
  readonly statement: Statement
  send(): Promise<Result>
  answer(result: Result): void
}

/** An adapter whose next statement can be stopped on its way there, and on its way back. */
export function stopping(adapter: SqlAdapter<unknown>) {
  let stop: ((stopped: Stopped) => void) | undefined
  return {
    next: () =>
      new Promise<Stopped>((resolve) => {
        stop = resolve
      }),
    adapter: routed(adapter, (statement, forward) => {
      if (stop === undefined) return forward()
      return new Promise<Result>((resolve) => {
        stop?.({ statement, send: forward, answer: resolve })
        stop = undefined
      })
    }),
  }
}
