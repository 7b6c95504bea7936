import { expectTypeOf } from 'vitest'
import type { Prisma, PrismaClient } from '../../../examples/prisma/generated/client.ts'
import { fromPrisma } from '../../../src/adapters/prisma.ts'
import { createLocks, type Locks } from '../../../src/index.ts'

// Compiled by ../examples.test.ts, after `prisma generate`: fails when Prisma's types move away from ours.

/** What guards of these locks take. */
type TransactionOf<L> = L extends Locks<infer Tx> ? Tx : never

const locksOf = (prisma: PrismaClient) => createLocks(fromPrisma(prisma))
type Tx = TransactionOf<ReturnType<typeof locksOf>>

expectTypeOf<Prisma.TransactionClient>().toExtend<Tx>()
expectTypeOf<PrismaClient>().not.toExtend<Tx>()
expectTypeOf<string>().not.toExtend<Tx>()

export async function written(prisma: PrismaClient): Promise<void> {
  const locks = locksOf(prisma)
  const lease = await locks.acquire('x')
  await prisma.$transaction((tx) => lease.guard(tx))
  await prisma.$transaction((tx) => lease.guard(() => tx), { isolationLevel: 'Serializable' })
  // @ts-expect-error
  await lease.guard('tx')
  // @ts-expect-error
  await lease.guard(prisma)
  // @ts-expect-error
  await prisma.$transaction(async (tx) => fromPrisma(tx))

  // Extensions change the type of the client and of its transactions.
  const extended = prisma.$extends({ model: { ledger: { entries: () => [] } } })
  const viaExtended = createLocks(fromPrisma(extended))
  await extended.$transaction((tx) => viaExtended.within(tx).acquire('x'))
  // @ts-expect-error
  viaExtended.within(extended)
}
