import { type RawBuilder, sql } from 'kysely'
import { toNumber } from '../../adapters/shape.ts'
import { type Store, WAITS_FRESH_MS } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { type Fragments, notDurable } from './fragments.ts'

export function waitStatements({ waits }: Fragments) {
  const toMs = (time: RawBuilder<unknown>) => sql`(extract(epoch from ${time}) * 1000)::float8`

  return {
    // One row at least, for the clock. What is lost in a crash is said again, so the commit need not wait for the disk.
    publishWaits: statement<{ process: string; waits: string | null }>(
      'postgres',
      (p) => sql`
        with said as (
          insert into ${waits} as w (process, said_at, waits)
          select ${p.process}::text, clock_timestamp(), ${p.waits}::text
          where ${p.waits}::text is not null
          on conflict (process) do update set said_at = excluded.said_at, waits = excluded.waits
        ), unsaid as (
          delete from ${waits} as w where w.process = ${p.process}::text and ${p.waits}::text is null
        )
        select ${toMs(sql`clock_timestamp()`)} as now, w.process, ${toMs(sql`w.said_at`)} as said_at, w.waits, ${notDurable}
        from (select) as one
        left join ${waits} as w
          on w.process <> ${p.process}::text
          and w.said_at > clock_timestamp() - ${sql.lit(WAITS_FRESH_MS)} * interval '1 ms'`,
    ),
  }
}

export function waits(context: Context<never>): Pick<Store<never>, 'publishWaits'> {
  const { runner } = context
  const statements = compiled(context, waitStatements)
  return {
    async publishWaits(process, waits) {
      const { rows } = await runner.keep(statements().publishWaits({ process, waits }))
      const others = rows.filter((row) => row.process !== null)
      return {
        now: toNumber(rows[0]?.now),
        others: others.map((row) => ({
          process: row.process as string,
          waits: row.waits as string,
          saidAt: toNumber(row.said_at),
        })),
      }
    },
  }
}
