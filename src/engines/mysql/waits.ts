import { sql } from 'kysely'
import { toNumber } from '../../adapters/shape.ts'
import { type Store, WAITS_FRESH_MS, WAITS_KEPT_MS } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { ALL, ASKED, BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { bytes, text } from './values.ts'

export function waitStatements({ waits }: Fragments) {
  const isOld = sql`w.said_at <= ${now} - ${sql.lit(WAITS_KEPT_MS)} * 1000`

  return {
    publishWaits: statement<{ process: Buffer; waits: Buffer }>(
      engine,
      (p) => sql`
        insert into ${waits} (process, said_at, waits) values (${p.process}, ${now}, ${p.waits})
        on duplicate key update said_at = ${now}, waits = ${p.waits}`,
    ),

    withdrawWaits: statement<{ process: Buffer }>(
      engine,
      (p) => sql`
        delete from ${waits} where process = ${p.process}`,
    ),

    // One row at least, for the clock.
    waitsOfOthers: statement<{ process: Buffer }>(
      engine,
      (p) => sql`
        select ${now} as clock, w.process, w.said_at, w.waits
        from (select 1) as one
        left join ${waits} as w on w.process <> ${p.process} and w.said_at > ${now} - ${sql.lit(WAITS_FRESH_MS)} * 1000
        limit ${sql.lit(ALL)}`,
    ),

    // Looked for first: a look for what to lock would lock all rows on its way, and have those wait who write them.
    purgeableWaits: statement<object>(
      engine,
      () => sql`
        select w.process from ${waits} as w where ${isOld} order by w.process limit ${sql.lit(BATCH)}`,
    ),

    purgeWaits: batched<{ process: Buffer }>(sql`
        delete w from (
          select asked.process
          from ${ASKED} as asked straight_join ${waits} as w force index (primary) on w.process = asked.process
          where ${isOld}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as unsaid
        straight_join ${waits} as w force index (primary) on w.process = unsaid.process`),
  }
}

export function waits({ runner, fragments }: Context<never>): Pick<Store<never>, 'publishWaits'> {
  const statements = waitStatements(fragments)
  return {
    async publishWaits(name, waits) {
      const process = bytes(name)
      await runner.keep(
        waits === null
          ? statements.withdrawWaits({ process })
          : statements.publishWaits({ process, waits: bytes(waits) }),
      )
      const { rows } = await runner.keep(statements.waitsOfOthers({ process }))
      const others = rows.filter((row) => row.process !== null)
      return {
        now: toNumber(rows[0]?.clock) / 1000,
        others: others.map((row) => ({
          process: text(row.process),
          waits: text(row.waits),
          saidAt: toNumber(row.said_at) / 1000,
        })),
      }
    },
  }
}

/** A process says it again several times a second, so one that has not for so long is gone, or will say it anew. */
export function waitPurger({ runner, fragments }: Pick<Context<never>, 'runner' | 'fragments'>): () => Promise<void> {
  const statements = waitStatements(fragments)
  return async () => {
    const { rows } = await runner.run(statements.purgeableWaits({}))
    if (rows.length > 0)
      await runner.run(statements.purgeWaits(rows.map(({ process }) => ({ process: bytes(text(process)) }))))
  }
}
