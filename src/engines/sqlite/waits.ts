import { sql } from 'kysely'
import { type Store, WAITS_FRESH_MS, WAITS_KEPT_MS } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'

export function waitStatements({ waits }: Fragments) {
  return {
    publishWaits: statement<{ process: string; waits: string }>(
      engine,
      (p) => sql`
        insert into ${waits} (process, said_at, waits) values (${p.process}, ${now}, ${p.waits})
        on conflict (process) do update set said_at = excluded.said_at, waits = excluded.waits`,
    ),

    withdrawWaits: statement<{ process: string }>(
      engine,
      (p) => sql`
        delete from ${waits} where process = ${p.process}`,
    ),

    // One row at least, for the clock.
    waitsOfOthers: statement<{ process: string }>(
      engine,
      (p) => sql`
        select ${now} as now, w.process, w.said_at, w.waits
        from (select 1) as one
        left join ${waits} as w on w.process <> ${p.process} and w.said_at > ${now} - ${sql.lit(WAITS_FRESH_MS)}`,
    ),

    purgeWaits: statement<object>(
      engine,
      () => sql`
        delete from ${waits} where said_at <= ${now} - ${sql.lit(WAITS_KEPT_MS)}`,
    ),
  }
}

export function waits({ runner, fragments }: Context<never>): Pick<Store<never>, 'publishWaits'> {
  const statements = waitStatements(fragments)
  // What is lost in a power failure is said again.
  const durable = false
  return {
    async publishWaits(process, waits) {
      const said = waits === null ? statements.withdrawWaits({ process }) : statements.publishWaits({ process, waits })
      await runner.keep({ ...said, durable })
      const { rows } = await runner.keep(statements.waitsOfOthers({ process }))
      const others = rows.filter((row) => row.process !== null)
      return {
        now: Number(rows[0]!.now),
        others: others.map((row) => ({
          process: row.process as string,
          waits: row.waits as string,
          saidAt: Number(row.said_at),
        })),
      }
    },
  }
}

/** A process says it again several times a second, so one that has not for so long is gone, or will say it anew. */
export function waitPurger({ runner, fragments }: Pick<Context<never>, 'runner' | 'fragments'>): () => Promise<void> {
  const statements = waitStatements(fragments)
  return async () => {
    await runner.run(statements.purgeWaits({}))
  }
}
