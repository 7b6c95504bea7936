import type { Connection, Result, SqlAdapter, Statement } from '../adapters/adapter.ts'
import { LockError } from '../base/errors.ts'
import { mayNeverCommit } from './failures.ts'

/** Runs statements through an adapter and turns what the driver throws into a LockError. */
export class Runner<Tx> {
  readonly #adapter: SqlAdapter<Tx>
  readonly #explain: (error: unknown, inTransaction: boolean) => LockError

  readonly #own: Connection

  constructor(
    adapter: SqlAdapter<Tx>,
    explain: (error: unknown, inTransaction: boolean) => LockError,
    own: Connection = adapter,
  ) {
    this.#adapter = adapter
    this.#explain = explain
    this.#own = own
  }

  /** On the application's pool. */
  run(query: Statement): Promise<Result> {
    return this.#runOn(this.#adapter, query)
  }

  /** On rowlock's own connection: what keeps leases alive and waiters moving does not depend on the application's pool. */
  keep(query: Statement): Promise<Result> {
    return this.#runOn(this.#own, query)
  }

  async #runOn(connection: Connection, query: Statement): Promise<Result> {
    try {
      const result = await connection.query(query)
      if (result.inTransaction === true) throw mayNeverCommit()
      return result
    } catch (error) {
      throw this.#wrap(error, false)
    }
  }

  /** Synchronous if the driver is. */
  runIn<T>(tx: Tx, query: Statement, read: (result: Result) => T): T | Promise<T> {
    try {
      const result = this.#adapter.queryIn(tx, query)
      if (!(result instanceof Promise)) return read(result)
      return result.then(read, (error: unknown) => {
        throw this.#wrap(error, true)
      })
    } catch (error) {
      throw this.#wrap(error, true)
    }
  }

  #wrap(error: unknown, inTransaction: boolean): LockError {
    return error instanceof LockError ? error : this.#explain(error, inTransaction)
  }
}
