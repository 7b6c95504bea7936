import { toBoolean } from '../../adapters/shape.ts'
import { LockError } from '../../base/errors.ts'
import type { Store } from '../../protocol/store.ts'
import { applyPending, historyStatement, quoted, tableName } from '../migrations.ts'
import type { Context } from './context.ts'
import { explain } from './errors.ts'

/** Spreads the transaction-level advisory locks of those who migrate the same tables: CREATE TABLE IF NOT EXISTS races. */
const MIGRATION_SEED = 8245928
/** Taken by whoever finds its schema missing, which several prefixes may share. */
const SCHEMA_LOCK = '8245928655720965490'

export function migrate({ adapter, naming, fragments: { table } }: Context<never>): Store<never>['migrate'] {
  return async () => {
    try {
      return await adapter.reserve(async (connection) => {
        const run = (text: string, values: unknown[] = []) => connection.query({ text, values })
        await run('begin')
        try {
          await run(
            "select 1 from pg_advisory_xact_lock(hashtextextended(coalesce($1::text, current_schema()) || ' ' || $2::text, $3::bigint))",
            [naming.schema ?? null, table, MIGRATION_SEED],
          )
          if (naming.schema !== undefined) {
            const isMissing = async () =>
              (await run('select 1 as found from pg_namespace where nspname = $1::text', [naming.schema])).rows
                .length === 0
            if (await isMissing()) {
              await run('select 1 from pg_advisory_xact_lock($1::bigint)', [SCHEMA_LOCK])
              if (await isMissing()) await run(`create schema ${quoted('postgres', naming.schema)}`)
            }
          }
          const history = tableName('postgres', 'migrations', naming)
          const { rows } = await run('select to_regclass($1::text) is not null as found', [history])
          if (!toBoolean(rows[0]?.found)) await run(historyStatement('postgres', naming))
          const done = new Set((await run(`select name from ${history}`)).rows.map((row) => row.name))
          const applied = await applyPending('postgres', naming, done, run)
          await run('commit')
          return applied
        } catch (error) {
          await run('rollback')
          throw error
        }
      })
    } catch (error) {
      throw error instanceof LockError ? error : explain(error, false, table)
    }
  }
}
