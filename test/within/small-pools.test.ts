import { engines } from '../engines.ts'
import { smallPoolsSuite } from './small-pools.ts'

for (const engine of engines()) if (engine.server !== undefined) smallPoolsSuite(engine)
