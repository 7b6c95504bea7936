import type { Result } from '../../adapters/adapter.ts'
import { checkRow, toNumber } from '../../adapters/shape.ts'
import { LockError } from '../../base/errors.ts'
import type { Store } from '../../protocol/store.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrations.ts'
import type { Context } from './context.ts'
import { explain, NO_SUCH_TABLE } from './errors.ts'
import { text } from './values.ts'

/** GET_LOCK names belong to the whole server: processes that migrate the same tables take turns. At most 64 characters. */
const MIGRATION_LOCK = "concat('rowlock:migrate:', left(sha2(concat(database(), ' ', ?), 256), 40))"
/** How long they wait for it. */
const MIGRATION_WAIT_SECONDS = 60

export function migrate({ adapter, naming, fragments: { table } }: Context<never>): Pick<Store<never>, 'migrate'> {
  return {
    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (query: string, values: unknown[] = []) => connection.query({ text: query, values })
          // The connection may go back to a pool, so the lock must go whatever happens, also if its own answer is unreadable.
          const unlock = () => run(`do release_lock(${MIGRATION_LOCK})`, [table])
          let pending: string[]
          try {
            const { rows } = await run(`select get_lock(${MIGRATION_LOCK}, ?) as locked`, [
              table,
              MIGRATION_WAIT_SECONDS,
            ])
            if (toNumber(checkRow(rows[0] ?? {}, 'locked').locked ?? 0) !== 1) {
              throw new LockError(
                'DATABASE',
                `another process has been migrating for ${MIGRATION_WAIT_SECONDS} s; look for it, or try again`,
              )
            }
            pending = await applyPending('mysql', naming, await applied(run, naming), run)
          } catch (error) {
            // What failed says more than that this failed, too: the connection may be gone, and the lock with it.
            await unlock().catch(() => undefined)
            throw error
          }
          await unlock()
          return pending
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}

/** Names of the migrations that ran. Makes the table of them only if it is missing, for which an application may have no right. */
async function applied(run: (query: string) => Promise<Result>, naming: Naming): Promise<Set<string>> {
  try {
    const { rows } = await run(`select name from ${tableName('mysql', 'migrations', naming)}`)
    return new Set(rows.map((row) => text(row.name)))
  } catch (error) {
    if ((error as { errno?: unknown } | null | undefined)?.errno !== NO_SUCH_TABLE) throw error
    await run(historyStatement('mysql', naming))
    return new Set()
  }
}
