import type { DedicatedConnection, Result, SqlAdapter, Statement } from '../src/adapters/adapter.ts'

/** What becomes of a statement that rowlock sends by itself; `forward` sends it. */
export type Route = (statement: Statement, forward: () => Promise<Result>) => Promise<Result>

/**
 * The same adapter, whose statements on the locks go through `route` when they commit by themselves: on the pool, and on the
 * connection of rowlock's own.
 */
export function routed<Tx>(adapter: SqlAdapter<Tx>, route: Route): SqlAdapter<Tx> {
  const through = (connection: { query(statement: Statement): Promise<Result> }) => (statement: Statement) => {
    const forward = () => connection.query(statement)
    return /rowlock_(locks|gates|slots|acquire_|release_|share_|downgrade_)/.test(statement.text)
      ? route(statement, forward)
      : forward()
  }
  const own = (open: (() => Promise<DedicatedConnection>) | undefined) =>
    open &&
    (async () => {
      const connection = await open.call(adapter)
      return { ...connection, query: through(connection) }
    })
  const dedicate = own(adapter.dedicate)
  const borrow = own(adapter.borrow)
  return { ...adapter, query: through(adapter), ...(dedicate && { dedicate }), ...(borrow && { borrow }) }
}
