import { engines } from '../engines.ts'
import { withinSuite } from './within.ts'

for (const engine of engines()) withinSuite(engine)
